//! From a record in the store to the principal that everything above speaks of.
//!
//! The one place where a principal of a user or a service is made, for a live request and for `explain --as` alike.

use std::sync::Arc;

use portcullis_wire::Identity;

use crate::{
    clock::Timestamp,
    model::{Method, Name, Principal, Validity, Verified},
    store::{Owner, ServiceRecord, TokenRecord, UserRecord},
};

/// The token that somebody came by: what of it a principal carries.
#[derive(Debug, Clone, Default)]
pub struct Credential {
    /// Its public id; `None` for a password.
    pub id: Option<Arc<str>>,
    /// The applications it is good for; `None` for all.
    pub applications: Option<Vec<Arc<str>>>,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// SHA-256 of the PHC string that a password matched; `None` for a token.
    pub password: Option<[u8; 32]>,
}

impl From<&TokenRecord> for Credential {
    fn from(token: &TokenRecord) -> Self {
        let (id, applications) = (Some(Arc::clone(&token.id)), token.applications.clone());
        Self { id, applications, expires: token.expires, password: None }
    }
}

/// `user`, verified by `method`.
#[must_use]
pub fn principal_for(user: &UserRecord, method: Method, credential: Credential) -> Principal {
    let about = About { name: &user.name, display: &user.display, email: &user.email, kind: "user" };
    let expires = credential.expires.into_iter().chain(user.expires).min();
    Principal::User(about.verified(&user.roles, method, Credential { expires, ..credential }))
}

/// `service`, verified by `method`.
#[must_use]
pub fn principal_for_service(service: &ServiceRecord, method: Method, credential: Credential) -> Principal {
    let about = About { name: &service.name, display: "", email: "", kind: "service" };
    Principal::Service(about.verified(&service.roles, method, credential))
}

/// The owner of `token`, verified by it.
#[must_use]
pub fn principal_for_token(token: &TokenRecord) -> Principal {
    match &token.owner {
        Owner::User(user) => principal_for(user, Method::Token, token.into()),
        Owner::Service(service) => principal_for_service(service, Method::Token, token.into()),
    }
}

/// `AUTH_TYPE`, as RFC 3875 section 4.1.1 has it: the scheme.
const fn auth_type(method: Method) -> &'static str {
    match method {
        Method::Unauthenticated => "",
        Method::Password => "Basic",
        Method::Token => "Bearer",
    }
}

struct About<'a> {
    name: &'a Name,
    display: &'a str,
    email: &'a str,
    kind: &'static str,
}

impl About<'_> {
    fn verified(&self, roles: &[Name], method: Method, credential: Credential) -> Arc<Verified> {
        let encoded = Identity {
            name: self.name.as_str(),
            display: self.display,
            email: self.email,
            method: method.word(),
            auth_type: auth_type(method),
            credential: credential.id.as_deref().unwrap_or_default(),
            kind: self.kind,
            roles: portcullis_wire::Strings::default(),
        }
        .encode(roles);
        Arc::new(Verified {
            name: self.name.clone(),
            display: self.display.to_owned(),
            email: self.email.to_owned(),
            roles: roles.to_vec(),
            method,
            credential: credential.id,
            applications: credential.applications,
            validity: Validity { password: credential.password, expires: credential.expires },
            encoded,
        })
    }
}
