//! Somebody who was verified some time ago: would they be now?
//!
//! Asked about requests that still run after something changed. The credentials are gone by then, and are not needed:
//! what the store said when they were verified stands in the principal ([`Validity`](crate::model::Validity)), and the
//! same credentials against the same record give the same answer. So nothing is hashed here.

use std::sync::Arc;

use super::{
    Authn, Outcome,
    principal::{Credential, principal_for, principal_for_token},
    verify::{Account, No, good},
};
use crate::model::{Method, Principal, Verified};

impl Authn {
    /// Who `principal` is now: with the roles of today, or nobody any more.
    pub async fn again(&self, principal: &Principal) -> Outcome {
        let Some(verified) = principal.verified() else { return Outcome::NotPresented };
        let now = match &verified.credential {
            Some(id) => self.token_again(verified, id).await,
            None => self.password_again(verified).await,
        };
        now.map_or_else(Outcome::from, Outcome::Verified)
    }

    async fn password_again(&self, verified: &Verified) -> Result<Principal, No> {
        let user = self.store.user(&verified.name).await?;
        let account = Account::usable(user, self.clock.now()).map_err(No::Rejected)?;
        // Another user of that name, or the same with another password.
        if verified.validity.password != Some(account.version) {
            return Err(No::Rejected("the password is another"));
        }
        let credential = Credential { password: Some(account.version), ..Credential::default() };
        Ok(principal_for(&account.user, Method::Password, credential))
    }

    async fn token_again(&self, verified: &Verified, id: &Arc<str>) -> Result<Principal, No> {
        let record = self.store.token_by_id(id).await?;
        let kind = record.as_ref().map(|record| record.kind);
        let record = kind.ok_or("no such token").and_then(|kind| good(record, kind, self.clock.now()));
        let record = record.map_err(No::Rejected)?;
        if *record.owner.name() != verified.name {
            return Err(No::Rejected("the token is somebody else's"));
        }
        Ok(principal_for_token(&record))
    }
}
