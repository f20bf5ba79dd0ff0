//! Stories against real files.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, atomic::AtomicI64},
};

use super::{testing::temporary, *};
use crate::{clock::Timestamp, model::Name, secret::Secret};

fn clock() -> Clock {
    Clock::Manual(Arc::new(AtomicI64::new(1_800_000_000_000)))
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn record() -> AuditRecord {
    AuditRecord::new(Timestamp(1), "test", "tester")
}

fn new_user(text: &str) -> NewUser {
    NewUser {
        name: name(text),
        display: "Ann Example".to_owned(),
        email: String::new(),
        expires: None,
        password: Some(Secret::new("$argon2id$…".to_owned())),
    }
}

#[tokio::test]
async fn roles_are_closed_over_what_they_include_even_in_a_circle() {
    let (_dir, store) = temporary(clock()).await;
    let mut change = store.change().await.unwrap();
    change.add_user(&new_user("ann")).await.unwrap();
    for role in ["sales", "staff", "visitor"] {
        change.add_role(&name(role), "").await.unwrap();
    }
    for (role, included) in [("sales", "staff"), ("staff", "visitor"), ("visitor", "sales")] {
        change.include_role(&name(role), &name(included)).await.unwrap();
    }
    change.grant(&name("ann"), &name("sales")).await.unwrap();
    change.commit(&record()).await.unwrap();
    let ann = store.user(&name("ANN")).await.unwrap().unwrap();
    assert_eq!(ann.roles, [name("sales"), name("staff"), name("visitor")]);
    assert_eq!(ann.granted, [name("sales")]);
    assert_eq!(ann.password.unwrap().reveal(), "$argon2id$…");
    assert_eq!(store.role(&name("sales")).await.unwrap().unwrap().users, [name("ann")]);
}

#[tokio::test]
async fn a_commit_bumps_the_version_once_and_a_dropped_change_never_happened() {
    let (_dir, store) = temporary(clock()).await;
    let before = store.version().await.unwrap();
    let mut change = store.change().await.unwrap();
    change.add_user(&new_user("ann")).await.unwrap();
    drop(change);
    assert!(store.user(&name("ann")).await.unwrap().is_none());
    assert_eq!(store.version().await.unwrap(), before);
    let mut change = store.change().await.unwrap();
    change.add_user(&new_user("ann")).await.unwrap();
    change.grant(&name("ann"), &name("nothing")).await.unwrap();
    change.commit(&record()).await.unwrap();
    assert_eq!(store.version().await.unwrap(), before + 1);
    assert_eq!(store.audit_after(&AuditFilter::default(), 0, 99).await.unwrap().len(), 1);
}

#[tokio::test]
async fn users_and_services_share_one_name_space() {
    let (_dir, store) = temporary(clock()).await;
    let mut change = store.change().await.unwrap();
    change.add_service(&name("backup"), "").await.unwrap();
    assert!(change.add_user(&new_user("backup")).await.is_err());
}

#[tokio::test]
async fn a_token_goes_with_its_owner() {
    let (_dir, store) = temporary(clock()).await;
    let mut change = store.change().await.unwrap();
    change.add_user(&new_user("ann")).await.unwrap();
    let token = NewToken {
        id: "tok_1".into(),
        digest: Some([7; 32]),
        label: "laptop".to_owned(),
        owner: name("ann"),
        applications: Some(vec!["/notes".into()]),
        expires: Some(Timestamp(5)),
    };
    change.add_token(&token).await.unwrap();
    change.commit(&record()).await.unwrap();
    let found = store.token_by_digest(&[7; 32]).await.unwrap().unwrap();
    assert_eq!((&*found.id, found.owner.name().as_str(), found.expires), ("tok_1", "ann", Some(Timestamp(5))));
    assert_eq!(found.applications.as_deref(), Some(&[Arc::from("/notes")][..]));
    assert_eq!(store.tokens(Some(&name("ann"))).await.unwrap().len(), 1);
    assert_eq!(store.tokens(Some(&name("bob"))).await.unwrap().len(), 0);
    let mut change = store.change().await.unwrap();
    change.remove_user(&name("ann")).await.unwrap();
    change.commit(&record()).await.unwrap();
    assert!(store.token_by_id("tok_1").await.unwrap().is_none());
}

#[tokio::test]
async fn the_audit_is_filtered_and_cannot_be_changed() {
    let (_dir, store) = temporary(clock()).await;
    let records: Vec<_> = ["user.add", "user.remove", "sign-in"]
        .into_iter()
        .zip(1..)
        .map(|(event, at)| AuditRecord::new(Timestamp(at), event, "ann"))
        .collect();
    store.append_audit(&records).await.unwrap();
    let events = async |filter: AuditFilter| -> Vec<String> {
        store
            .audit_after(&filter, 0, 99)
            .await
            .unwrap()
            .into_iter()
            .map(|audit| audit.record.event.into_owned())
            .collect()
    };
    assert_eq!(events(AuditFilter::default()).await, ["user.add", "user.remove", "sign-in"]);
    let family = AuditFilter { event: Some("user.".to_owned()), ..AuditFilter::default() };
    assert_eq!(events(family).await, ["user.add", "user.remove"]);
    let since = AuditFilter { since: Some(Timestamp(3)), ..AuditFilter::default() };
    assert_eq!(events(since).await, ["sign-in"]);
    let newest = store.newest_audit(&AuditFilter::default(), 2).await.unwrap();
    assert_eq!(newest.iter().map(|audit| audit.sequence).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(store.audit_after(&AuditFilter::default(), 2, 99).await.unwrap().len(), 1);
    for sql in ["DELETE FROM audit", "UPDATE audit SET actor = 'bob'"] {
        assert!(sqlx::query(sql).execute(store.pool()).await.is_err(), "{sql}");
    }
}

#[tokio::test]
async fn a_sign_in_moves_the_last_ones() {
    let (_dir, store) = temporary(clock()).await;
    let mut change = store.change().await.unwrap();
    change.add_user(&new_user("ann")).await.unwrap();
    change.commit(&record()).await.unwrap();
    let good = AuditRecord::new(Timestamp(10), "sign-in", "ann");
    let bad = AuditRecord::new(Timestamp(20), "sign-in", "ann").refused(crate::model::Reason::CredentialsRejected);
    store.append_audit(&[good, bad]).await.unwrap();
    let ann = store.user(&name("ann")).await.unwrap().unwrap();
    assert_eq!((ann.last_sign_in, ann.last_failure), (Some(Timestamp(10)), Some(Timestamp(20))));
}

#[tokio::test]
async fn the_files_are_private_and_never_overwritten() {
    let (dir, store) = temporary(clock()).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("data")), 0o700);
    for entry in fs::read_dir(dir.path().join("data")).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    assert!(matches!(Store::create(store.path(), clock()).await, Err(StoreError::Exists(_))));
    fs::set_permissions(store.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Store::open(store.path(), clock()).await, Err(StoreError::Exposed { mode: 0o644, .. })));
}

#[tokio::test]
async fn what_is_no_store_is_told_apart() {
    let (dir, store) = temporary(clock()).await;
    let at = |file: &str| dir.path().join(file);
    let write = |file: &str, content: &[u8]| {
        fs::write(at(file), content).unwrap();
        fs::set_permissions(at(file), fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("empty", b"");
    write("text", &b"this is no database at all\n".repeat(200));
    assert!(matches!(Store::open(&at("missing"), clock()).await, Err(StoreError::Missing(_))));
    assert!(matches!(Store::open(&at("empty"), clock()).await, Err(StoreError::Corrupt { .. })));
    assert!(matches!(Store::open(&at("text"), clock()).await, Err(StoreError::Corrupt { .. })));
    sqlx::query("PRAGMA application_id = 42").execute(store.pool()).await.unwrap();
    store.close().await;
    assert!(matches!(Store::open(store.path(), clock()).await, Err(StoreError::Foreign(_))));
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let (_dir, store) = temporary(clock()).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', 1, x'00', 0)",
    )
    .execute(store.pool())
    .await
    .unwrap();
    store.close().await;
    assert!(matches!(Store::open(store.path(), clock()).await, Err(StoreError::Newer { schema: 9999, .. })));
}

#[tokio::test]
async fn what_was_committed_is_there_after_opening_again() {
    let (_dir, store) = temporary(clock()).await;
    let mut change = store.change().await.unwrap();
    change.add_user(&new_user("ann")).await.unwrap();
    let key = SigningKey { kid: "k1".to_owned(), private_pem: Secret::new("pem".to_owned()), created: Timestamp(1) };
    change.add_signing_key(&key).await.unwrap();
    change.commit(&record()).await.unwrap();
    store.close().await;
    let store = Store::open(store.path(), clock()).await.unwrap();
    assert!(store.user(&name("ann")).await.unwrap().is_some());
    assert_eq!(store.signing_keys().await.unwrap()[0].kid, "k1");
}
