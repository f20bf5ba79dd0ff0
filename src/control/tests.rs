//! Stories about acts.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, atomic::AtomicI64},
};

use super::{
    install::{InitArgs, InitError, init},
    passwords::PasswordRules,
    roles::Holder,
    tokens::TokenArgs,
    users::UserArgs,
    *,
};
use crate::{
    audit::event,
    authn::{
        jwt::{self, KeySet},
        password::{Cost, verify},
        token,
    },
    clock::Clock,
    model::{ADMINISTRATOR, SecurityLevel},
    secret::Secret,
    store::{AuditFilter, TokenKind, testing::temporary},
};

const NOW: i64 = 1_800_000_000_000;

fn clock() -> Clock {
    Clock::Manual(Arc::new(AtomicI64::new(NOW)))
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn actor() -> Actor {
    Actor::console("tester")
}

fn rules() -> PasswordRules {
    PasswordRules { level: SecurityLevel::Normal, cost: Cost::danger_test_minimum() }
}

fn user(text: &str, roles: &[&str]) -> UserArgs {
    UserArgs {
        name: name(text),
        display: String::new(),
        email: String::new(),
        expires: None,
        roles: roles.iter().map(|role| name(role)).collect(),
        password: Secret::new("correct horse battery".to_owned()),
    }
}

/// A store with one administrator, `root`.
async fn store() -> (tempfile::TempDir, Store) {
    let (dir, store) = temporary(clock()).await;
    roles::add(&store, &actor(), &name(ADMINISTRATOR), "", &[]).await.unwrap();
    users::add(&store, &actor(), user("root", &[ADMINISTRATOR]), &rules()).await.unwrap();
    (dir, store)
}

async fn events(store: &Store) -> Vec<String> {
    let stored = store.audit_after(&AuditFilter::default(), 0, 99).await.unwrap();
    stored.into_iter().map(|audit| format!("{} {}", audit.record.event, audit.record.target.unwrap())).collect()
}

#[tokio::test]
async fn an_added_user_has_a_hash_and_an_audit_record_without_it() {
    let (_dir, store) = store().await;
    users::add(&store, &actor(), user("Ann", &[]), &rules()).await.unwrap();
    let ann = users::get(&store, &name("ann")).await.unwrap();
    assert!(verify(b"correct horse battery", ann.password.unwrap().reveal()));
    let audit = store.audit_after(&AuditFilter::default(), 0, 99).await.unwrap().pop().unwrap().record;
    assert_eq!(
        (&*audit.event, audit.actor.as_str(), audit.target.as_deref()),
        (event::USER_ADD, "console:tester", Some("ann"))
    );
    assert!(!audit.details.unwrap().to_string().contains("argon2"));
}

#[tokio::test]
async fn what_is_refused_leaves_no_trace() {
    let (_dir, store) = store().await;
    let before = (events(&store).await, store.version().await.unwrap());
    let taken = users::add(&store, &actor(), user("root", &[]), &rules()).await;
    assert!(matches!(taken, Err(ActError::Taken { kind: "user", .. })));
    let role = users::add(&store, &actor(), user("ann", &["administrater"]), &rules()).await.unwrap_err();
    assert_eq!(role.to_string(), "there is no role `administrater`: did you mean `administrator`?");
    let weak = UserArgs { password: Secret::new("short".to_owned()), ..user("ann", &[]) };
    assert!(matches!(users::add(&store, &actor(), weak, &rules()).await, Err(ActError::Refused(_))));
    let line = UserArgs { display: "Ann\nroot".to_owned(), ..user("ann", &[]) };
    assert!(matches!(users::add(&store, &actor(), line, &rules()).await, Err(ActError::Refused(_))));
    assert_eq!((events(&store).await, store.version().await.unwrap()), before);
}

#[tokio::test]
async fn the_last_administrator_stays_whatever_is_tried() {
    let (_dir, store) = store().await;
    roles::add(&store, &actor(), &name("operators"), "", &[name(ADMINISTRATOR)]).await.unwrap();
    let root = Holder::User(name("root"));
    let administrator = name(ADMINISTRATOR);
    let last = |answer: Result<bool>| assert!(matches!(answer, Err(ActError::LastAdministrator)));
    last(users::set_enabled(&store, &actor(), &name("root"), false).await);
    last(roles::revoke(&store, &actor(), &root, &administrator).await);
    last(users::remove(&store, &actor(), &name("root")).await.map(|()| true));
    assert!(roles::remove(&store, &actor(), &administrator).await.is_err());
    // Through an included role counts; then the including role must stay.
    users::add(&store, &actor(), user("ann", &["operators"]), &rules()).await.unwrap();
    assert!(roles::revoke(&store, &actor(), &root, &administrator).await.unwrap());
    last(roles::remove(&store, &actor(), &name("operators")).await.map(|()| true));
    last(users::set_enabled(&store, &actor(), &name("ann"), false).await);
    assert!(users::set_enabled(&store, &actor(), &name("root"), false).await.unwrap());
}

#[tokio::test]
async fn granting_twice_changes_once() {
    let (_dir, store) = store().await;
    roles::add(&store, &actor(), &name("sales"), "", &[]).await.unwrap();
    let root = Holder::User(name("root"));
    assert!(roles::grant(&store, &actor(), &root, &name("sales")).await.unwrap());
    assert!(!roles::grant(&store, &actor(), &root, &name("sales")).await.unwrap());
    assert!(roles::revoke(&store, &actor(), &root, &name("sales")).await.unwrap());
    assert!(!roles::revoke(&store, &actor(), &root, &name("sales")).await.unwrap());
    let nobody = roles::grant(&store, &actor(), &Holder::User(name("rot")), &name("sales")).await.unwrap_err();
    assert_eq!(nobody.to_string(), "there is no user `rot`: did you mean `root`?");
    assert_eq!(events(&store).await[3..], ["role.grant root", "role.revoke root"]);
}

fn token_args(owner: Holder, kind: TokenKind) -> TokenArgs {
    TokenArgs {
        owner,
        applications: vec!["/notes".into()],
        expires: Some(Timestamp(NOW + 3_600_000)),
        label: "laptop".to_owned(),
        kind,
        issuer: "portcullis".to_owned(),
    }
}

#[tokio::test]
async fn a_token_brings_its_service_along_and_is_found_by_its_digest() {
    let (_dir, store) = store().await;
    let args = || token_args(Holder::Service(name("backup")), TokenKind::Opaque);
    let made = tokens::create(&store, &actor(), args()).await.unwrap();
    assert!(made.new_service);
    assert!(!tokens::create(&store, &actor(), args()).await.unwrap().new_service);
    let digest = token::digest(made.text.reveal()).unwrap();
    assert_eq!(store.token_by_digest(&digest).await.unwrap().unwrap().id, made.id);
    assert!(tokens::revoke(&store, &actor(), &made.id).await.unwrap());
    assert!(!tokens::revoke(&store, &actor(), &made.id).await.unwrap());
    assert!(store.token_by_id(&made.id).await.unwrap().unwrap().revoked.is_some());
    let pasted = tokens::revoke(&store, &actor(), made.text.reveal()).await.unwrap_err().to_string();
    assert!(!pasted.contains(made.text.reveal().as_str()), "{pasted}");
    let person = tokens::create(&store, &actor(), token_args(Holder::Service(name("root")), TokenKind::Opaque)).await;
    assert!(matches!(person, Err(ActError::Taken { kind: "user", .. })));
}

#[tokio::test]
async fn a_jwt_is_signed_by_the_newest_key_and_has_a_record() {
    let (_dir, store) = store().await;
    let args = || token_args(Holder::User(name("root")), TokenKind::Jwt);
    assert!(tokens::create(&store, &actor(), args()).await.is_err(), "there is no key yet");
    let (kid, private_pem) = jwt::generate_key().unwrap();
    let mut change = store.change().await.unwrap();
    change.add_signing_key(&crate::store::SigningKey { kid, private_pem, created: Timestamp(NOW) }).await.unwrap();
    change.commit(&actor().did(Timestamp(NOW), event::INIT, "")).await.unwrap();
    let made = tokens::create(&store, &actor(), args()).await.unwrap();
    let keys = store.signing_keys().await.unwrap();
    let keys = KeySet::new(keys.iter().map(|key| (key.kid.as_str(), &key.private_pem))).unwrap();
    let claims = jwt::verify(made.text.reveal(), &keys, "portcullis", "/notes", Timestamp(NOW)).unwrap();
    assert_eq!((claims.sub.as_str(), claims.jti.as_str()), ("root", &*made.id));
    assert_eq!(store.token_by_id(&made.id).await.unwrap().unwrap().kind, TokenKind::Jwt);
    assert!(tokens::create(&store, &actor(), TokenArgs { expires: None, ..args() }).await.is_err());
    assert!(tokens::create(&store, &actor(), TokenArgs { applications: vec![], ..args() }).await.is_err());
}

fn init_args(directory: &Path, password: Option<&str>) -> InitArgs {
    InitArgs {
        directory: directory.to_path_buf(),
        listen: "127.0.0.1:8443".parse().unwrap(),
        admin: name("admin"),
        password: password.map(|text| Secret::new(text.to_owned())),
        rules: rules(),
    }
}

#[tokio::test]
async fn an_installation_is_complete_private_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new/gate");
    let made = init(&actor(), init_args(&root, None), clock()).await.unwrap();
    let mode = |file: &str| std::fs::metadata(root.join(file)).unwrap().permissions().mode() & 0o777;
    for (file, expected) in [
        ("portcullis.toml", 0o600),
        ("certs/ca.key", 0o600),
        ("certs/localhost.key", 0o600),
        ("data", 0o700),
        ("data/portcullis.sqlite3", 0o600),
        ("logs", 0o700),
    ] {
        assert_eq!(mode(file), expected, "{file}");
    }
    let store = Store::open(&made.store, clock()).await.unwrap();
    let admin = users::get(&store, &name("admin")).await.unwrap();
    assert_eq!(admin.roles, [name(ADMINISTRATOR)]);
    assert!(verify(made.generated.unwrap().reveal().as_bytes(), admin.password.unwrap().reveal()));
    assert_eq!(store.signing_keys().await.unwrap().len(), 1);
    let again = init(&actor(), init_args(&root, None), clock()).await.err().unwrap();
    assert!(matches!(again, InitError::Exists(path, _) if path == made.config));
}

#[tokio::test]
async fn an_installation_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("gate");
    let weak = init(&actor(), init_args(&root, Some("short")), clock()).await;
    assert!(matches!(weak, Err(InitError::Act(ActError::Refused(_)))));
    assert!(!root.exists());
    // Something in the way: what was there before stays, what was made is gone.
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("logs"), "not a directory").unwrap();
    assert!(matches!(init(&actor(), init_args(&root, None), clock()).await, Err(InitError::Io { .. })));
    let left: Vec<_> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["logs"]);
    std::fs::remove_file(root.join("logs")).unwrap();
    std::fs::create_dir_all(root.join("data")).unwrap();
    std::fs::write(root.join("data/portcullis.sqlite3-wal"), "of an older store").unwrap();
    assert!(matches!(init(&actor(), init_args(&root, None), clock()).await, Err(InitError::Exists(..))));
}

#[test]
fn development_certificates_are_good_for_this_machine_alone() {
    use x509_parser::prelude::*;
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(init(&actor(), init_args(dir.path(), None), clock())).map(drop).unwrap();
    let read = |file: &str| std::fs::read(dir.path().join(file)).unwrap();
    let (authority, server) = (read("certs/ca.pem"), read("certs/localhost.pem"));
    let (_, authority) = parse_x509_pem(&authority).unwrap();
    let (_, server) = parse_x509_pem(&server).unwrap();
    let (authority, server) = (authority.parse_x509().unwrap(), server.parse_x509().unwrap());
    assert!(authority.name_constraints().unwrap().unwrap().critical);
    assert_eq!(authority.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    assert_eq!(server.issuer(), authority.subject());
    assert_eq!(server.validity().not_after.timestamp() - server.validity().not_before.timestamp(), 397 * 86_400);
    assert_eq!(server.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 3);
}
