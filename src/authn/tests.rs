//! Stories about who gets in, through a real store.

use std::{
    pin::Pin,
    sync::{Arc, atomic::AtomicI64},
    task::{Context, Waker},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use portcullis_wire::Identity;

use super::{jwt::Claims, password::Cost, *};
use crate::{
    clock::Timestamp,
    model::{Method, Name},
    secret::Secret,
    store::{AuditRecord, Change, NewToken, NewUser, SigningKey, testing},
};

const NOW: i64 = 1_800_000_000_000;

/// A gate with a store, `ann` (password `sesame street`, role `sales`) in it, and a clock that stands still.
struct Gate {
    _directory: tempfile::TempDir,
    time: Arc<AtomicI64>,
    store: Store,
    pool: HashingPool,
    authn: Arc<Authn>,
}

impl Gate {
    async fn new() -> Self {
        Self::with_queue(64).await
    }

    async fn with_queue(queue: usize) -> Self {
        let time = Arc::new(AtomicI64::new(NOW));
        let clock = Clock::Manual(Arc::clone(&time));
        let (directory, store) = testing::temporary(clock.clone()).await;
        let pool = HashingPool::new(1, queue, Cost::danger_test_minimum()).unwrap();
        let authn = Arc::new(Authn::new(store.clone(), clock, pool.clone(), "portcullis"));
        let gate = Self { _directory: directory, time, store, pool, authn };
        gate.add_user("ann", Some("sesame street"), None).await;
        gate
    }

    fn pass(&self, millis: i64) {
        self.time.fetch_add(millis, Ordering::SeqCst);
    }

    /// A committed change that the gate is told about.
    async fn change(&self, act: impl AsyncFnOnce(&mut Change)) {
        let mut change = self.store.change().await.unwrap();
        act(&mut change).await;
        change.commit(&AuditRecord::new(Timestamp(NOW), "test", "console")).await.unwrap();
        self.authn.invalidate();
    }

    async fn add_user(&self, user: &str, password: Option<&str>, expires: Option<Timestamp>) {
        let password = password.map(phc);
        let (display, email) = ("Ann Example".to_owned(), "ann@example.org".to_owned());
        let user = NewUser { name: name(user), display, email, expires, password };
        self.change(async |change| {
            change.add_user(&user).await.unwrap();
            if change.role(&name("sales")).await.unwrap().is_none() {
                change.add_role(&name("sales"), "").await.unwrap();
            }
            change.grant(&user.name, &name("sales")).await.unwrap();
        })
        .await;
    }

    async fn add_token(
        &self,
        owner: &str,
        applications: Option<&str>,
        expires: Option<i64>,
    ) -> (Secret<String>, String) {
        let (text, id, digest) = token::generate();
        let applications = applications.map(|one| vec![Arc::from(one)]);
        let expires = expires.map(Timestamp);
        let new = NewToken {
            id: id.as_str().into(),
            digest: Some(digest),
            label: String::new(),
            owner: name(owner),
            applications,
            expires,
        };
        self.change(async |change| change.add_token(&new).await.unwrap()).await;
        (text, id)
    }

    /// A signing key in the store, and a JWT of ann for `/notes` signed with it.
    async fn add_jwt(&self) -> (Secret<String>, Claims, jwt::Signer) {
        let (kid, pem) = jwt::generate_key().unwrap();
        let signer = jwt::Signer::new(&kid, &pem).unwrap();
        let key = SigningKey { kid, private_pem: pem, created: Timestamp(NOW) };
        let claims = Claims {
            iss: "portcullis".to_owned(),
            sub: "ann".to_owned(),
            aud: vec!["/notes".to_owned()],
            nbf: None,
            iat: NOW / 1000,
            exp: NOW / 1000 + 7200,
            jti: token::new_id(),
        };
        let new = NewToken {
            id: claims.jti.as_str().into(),
            digest: None,
            label: String::new(),
            owner: name("ann"),
            applications: Some(vec!["/notes".into()]),
            expires: Some(Timestamp(claims.exp * 1000)),
        };
        self.change(async |change| {
            change.add_signing_key(&key).await.unwrap();
            change.add_token(&new).await.unwrap();
        })
        .await;
        (jwt::issue(&signer, &claims).unwrap(), claims, signer)
    }

    /// Gives ann's password a hash that takes far longer than reading the store.
    async fn make_slow(&self) {
        let slow = Cost { memory_kib: 64 * 1024, iterations: 4, parallelism: 1 };
        let slow = password::hash(&Secret::new("sesame street".to_owned()), &slow).unwrap();
        self.change(async |change| change.set_password(&name("ann"), &slow).await.unwrap()).await;
    }

    async fn basic(&self, pair: &str) -> Outcome {
        self.authn.identify(basic(pair), "/notes").await
    }

    async fn bearer(&self, token: &Secret<String>) -> Outcome {
        self.authn.identify(bearer(token.reveal()), "/notes").await
    }

    fn recalls(&self, presented: &Presented) -> bool {
        matches!(self.authn.recall(presented, "/notes"), Some(Outcome::Verified(_)))
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn phc(text: &str) -> Secret<String> {
    password::hash(&Secret::new(text.to_owned()), &Cost::danger_test_minimum()).unwrap()
}

fn presented(value: &str) -> Presented {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    Presented::from_headers(&headers)
}

fn basic(pair: &str) -> Presented {
    presented(&format!("Basic {}", STANDARD.encode(pair)))
}

fn bearer(token: &str) -> Presented {
    presented(&format!("Bearer {token}"))
}

fn roles(outcome: &Outcome) -> Vec<String> {
    let principal = outcome.clone().principal().unwrap();
    principal.verified().unwrap().roles.iter().map(ToString::to_string).collect()
}

fn rejected(outcome: &Outcome) -> &'static str {
    let Outcome::Rejected(why) = outcome else { panic!("{outcome:?}") };
    why
}

#[tokio::test]
async fn a_password_is_hashed_once_and_then_remembered() {
    let gate = Gate::new().await;
    assert!(gate.authn.recall(&basic("ann:sesame street"), "/notes").is_none());
    let first = gate.basic("ann:sesame street").await;
    assert!(matches!(&first, Outcome::SignedIn(Principal::User(_))), "{first:?}");
    assert_eq!(roles(&first), ["sales"]);
    for _ in 0..3 {
        assert!(gate.recalls(&basic("ann:sesame street")));
        assert!(matches!(gate.basic("ann:sesame street").await, Outcome::Verified(_)));
    }
    assert_eq!(gate.pool.verifications(), 1);
    // Another spelling is the same user, and another pair of credentials.
    let spelled = gate.basic("ANN:sesame street").await.principal().unwrap();
    assert_eq!((spelled.name(), gate.pool.verifications()), (Some("ann"), 2));
    gate.pass(5 * 60 * 1000);
    assert!(!gate.recalls(&basic("ann:sesame street")));
    assert!(matches!(gate.basic("ann:sesame street").await, Outcome::SignedIn(_)));
    assert_eq!(gate.pool.verifications(), 3);
}

#[tokio::test]
async fn the_worker_reads_who_it_is() {
    let gate = Gate::new().await;
    let principal = gate.basic("ann:sesame street").await.principal().unwrap();
    let verified = principal.verified().unwrap();
    let identity = Identity::parse(&verified.encoded).unwrap();
    assert_eq!((identity.name, identity.display, identity.email), ("ann", "Ann Example", "ann@example.org"));
    assert_eq!((identity.method, identity.auth_type, identity.kind), ("password", "Basic", "user"));
    assert_eq!((identity.credential, identity.roles.iter().collect::<Vec<_>>()), ("", vec!["sales"]));
    gate.change(async |change| change.add_service(&name("robot"), "").await.unwrap()).await;
    let (token, id) = gate.add_token("robot", Some("/notes"), None).await;
    let principal = gate.bearer(&token).await.principal().unwrap();
    assert!(matches!(principal, Principal::Service(_)));
    let verified = principal.verified().unwrap();
    let identity = Identity::parse(&verified.encoded).unwrap();
    assert_eq!((identity.method, identity.auth_type, identity.kind), ("token", "Bearer", "service"));
    assert_eq!((identity.credential, verified.method), (id.as_str(), Method::Token));
    assert_eq!(verified.applications.as_deref(), Some([Arc::from("/notes")].as_slice()));
}

#[tokio::test]
async fn everybody_who_cannot_sign_in_costs_and_gets_the_same() {
    let gate = Gate::new().await;
    gate.add_user("disabled", Some("sesame street"), None).await;
    gate.add_user("expired", Some("sesame street"), Some(Timestamp(NOW))).await;
    gate.add_user("tokens-only", None, None).await;
    gate.change(async |change| change.add_service(&name("robot"), "").await.unwrap()).await;
    gate.change(async |change| change.enable_user(&name("disabled"), false).await.unwrap()).await;
    for (pair, why) in [
        ("ann:wrong", "wrong password"),
        ("ann:Sesame street", "wrong password"),
        ("nobody:sesame street", "no such user"),
        ("not a name!:sesame street", "no such user"),
        (":sesame street", "no such user"),
        ("robot:sesame street", "no such user"),
        ("disabled:sesame street", "the user is disabled"),
        ("disabled:wrong", "the user is disabled"),
        ("expired:sesame street", "the user has expired"),
        ("tokens-only:sesame street", "the user has no password"),
    ] {
        for _ in 0..2 {
            let before = gate.pool.verifications();
            assert_eq!(rejected(&gate.basic(pair).await), why, "{pair}");
            assert_eq!(gate.pool.verifications(), before + 1, "{pair}");
            assert!(gate.authn.recall(&basic(pair), "/notes").is_none(), "a failure is not remembered");
        }
    }
    let before = gate.pool.verifications();
    for pair in ["ann:".to_owned(), "nobody:".to_owned(), format!("ann:{}", "x".repeat(1025))] {
        rejected(&gate.basic(&pair).await);
    }
    assert_eq!((gate.pool.verifications(), gate.authn.passwords.len()), (before, 0));
}

#[tokio::test]
async fn a_change_takes_effect_on_the_next_request_without_hashing_again() {
    let gate = Gate::new().await;
    let pair = "ann:sesame street";
    assert_eq!(roles(&gate.basic(pair).await), ["sales"]);
    gate.change(async |change| {
        change.add_role(&name("admin"), "").await.unwrap();
        change.grant(&name("ann"), &name("admin")).await.unwrap();
    })
    .await;
    assert!(!gate.recalls(&basic(pair)), "nothing is believed before it was compared");
    let refreshed = gate.basic(pair).await;
    assert_eq!(roles(&refreshed), ["admin", "sales"]);
    assert!(matches!(refreshed, Outcome::Verified(_)), "a change of roles is no sign-in");
    assert!(gate.recalls(&basic(pair)));
    gate.change(async |change| change.revoke(&name("ann"), &name("admin")).await.unwrap()).await;
    assert_eq!(roles(&gate.basic(pair).await), ["sales"]);
    assert_eq!(gate.pool.verifications(), 1);
    gate.change(async |change| change.enable_user(&name("ann"), false).await.unwrap()).await;
    assert_eq!(rejected(&gate.basic(pair).await), "the user is disabled");
    gate.change(async |change| change.enable_user(&name("ann"), true).await.unwrap()).await;
    assert_eq!(roles(&gate.basic(pair).await), ["sales"]);
    gate.change(async |change| change.remove_user(&name("ann")).await.unwrap()).await;
    assert_eq!(rejected(&gate.basic(pair).await), "no such user");
}

#[tokio::test]
async fn a_new_password_ends_the_old_one() {
    let gate = Gate::new().await;
    gate.basic("ann:sesame street").await;
    gate.change(async |change| change.set_password(&name("ann"), &phc("open barley")).await.unwrap()).await;
    assert_eq!(rejected(&gate.basic("ann:sesame street").await), "wrong password");
    assert!(matches!(gate.basic("ann:open barley").await, Outcome::SignedIn(_)));
    // The same password again has another salt: what was proven of the old hash proves nothing of the new one.
    let before = gate.pool.verifications();
    gate.change(async |change| change.set_password(&name("ann"), &phc("open barley")).await.unwrap()).await;
    assert!(matches!(gate.basic("ann:open barley").await, Outcome::SignedIn(_)));
    assert_eq!(gate.pool.verifications(), before + 1);
}

#[tokio::test]
async fn who_was_verified_is_asked_about_again_without_credentials_and_without_hashing() {
    let gate = Gate::new().await;
    let by_password = gate.basic("ann:sesame street").await.principal().unwrap();
    let (token, id) = gate.add_token("ann", None, Some(NOW + 60_000)).await;
    let by_token = gate.bearer(&token).await.principal().unwrap();
    let (jwt, claims, _) = gate.add_jwt().await;
    let by_jwt = gate.bearer(&jwt).await.principal().unwrap();
    let again = async |principal: &Principal| gate.authn.again(principal).await;
    gate.change(async |change| change.revoke(&name("ann"), &name("sales")).await.unwrap()).await;
    for principal in [&by_password, &by_token, &by_jwt] {
        assert!(roles(&again(principal).await).is_empty(), "the roles of today");
    }
    let expires = |principal: &Principal| principal.verified().unwrap().validity.expires;
    assert_eq!((expires(&by_password), expires(&by_token)), (None, Some(Timestamp(NOW + 60_000))));
    gate.change(async |change| change.set_password(&name("ann"), &phc("sesame street")).await.unwrap()).await;
    assert_eq!(rejected(&again(&by_password).await), "the password is another");
    assert!(again(&by_token).await.principal().is_some(), "a token does not end with the password");
    gate.change(async |change| change.revoke_token(&claims.jti).await.unwrap()).await;
    assert_eq!(rejected(&again(&by_jwt).await), "the token was revoked");
    gate.pass(60_000);
    assert_eq!(rejected(&again(&by_token).await), "the token has expired");
    gate.pass(-60_000);
    gate.change(async |change| change.revoke_token(&id).await.unwrap()).await;
    assert_eq!(rejected(&again(&by_token).await), "the token was revoked");
    gate.change(async |change| change.remove_user(&name("ann")).await.unwrap()).await;
    gate.add_user("ann", Some("sesame street"), None).await;
    assert_eq!(rejected(&again(&by_password).await), "the password is another", "another of that name");
    assert_eq!(rejected(&again(&by_token).await), "no such token");
    assert!(matches!(again(&Principal::Anonymous).await, Outcome::NotPresented));
    gate.store.close().await;
    assert!(matches!(again(&by_password).await, Outcome::Unavailable));
    assert_eq!(gate.pool.verifications(), 1);
}

#[tokio::test]
async fn who_expires_is_out_at_that_moment() {
    let gate = Gate::new().await;
    gate.add_user("bob", Some("sesame street"), Some(Timestamp(NOW + 1000))).await;
    let (token, _) = gate.add_token("bob", None, None).await;
    let (short, _) = gate.add_token("ann", None, Some(NOW + 1000)).await;
    for outcome in [gate.basic("bob:sesame street").await, gate.bearer(&token).await, gate.bearer(&short).await] {
        assert!(matches!(outcome, Outcome::SignedIn(_)), "{outcome:?}");
    }
    gate.pass(999);
    assert!(gate.recalls(&basic("bob:sesame street")) && gate.recalls(&bearer(token.reveal())));
    assert!(gate.recalls(&bearer(short.reveal())));
    gate.pass(1);
    assert!(!gate.recalls(&basic("bob:sesame street")) && !gate.recalls(&bearer(token.reveal())));
    assert!(!gate.recalls(&bearer(short.reveal())));
    assert_eq!(rejected(&gate.basic("bob:sesame street").await), "the user has expired");
    assert_eq!(rejected(&gate.bearer(&token).await), "the user has expired");
    assert_eq!(rejected(&gate.bearer(&short).await), "the token has expired");
}

/// A sign-in that has begun to read the store and has no answer yet. Where the store was quicker than one look at it,
/// what was read is forgotten and asked again.
fn begun(gate: &Gate, shown: impl Fn() -> Presented) -> Pin<Box<dyn Future<Output = Outcome> + '_>> {
    loop {
        let mut reading = Box::pin(gate.authn.identify(shown(), "/notes"));
        if reading.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            return reading;
        }
        gate.authn.invalidate();
    }
}

#[tokio::test]
async fn a_change_while_the_store_is_read_is_not_lost() {
    let gate = Gate::new().await;
    let (token, _) = gate.add_token("ann", None, None).await;
    let (jwt, ..) = gate.add_jwt().await;
    for shown in [format!("Bearer {}", token.reveal()), format!("Bearer {}", jwt.reveal())] {
        let reading = begun(&gate, || presented(&shown));
        gate.change(async |change| change.revoke(&name("ann"), &name("sales")).await.unwrap()).await;
        assert!(reading.await.principal().is_some());
        assert!(!gate.recalls(&presented(&shown)), "what was read may be older than the change");
        assert_eq!(roles(&gate.authn.identify(presented(&shown), "/notes").await), Vec::<String>::new());
        assert!(gate.recalls(&presented(&shown)));
        gate.change(async |change| change.grant(&name("ann"), &name("sales")).await.unwrap()).await;
    }
    let shown = || basic("ann:sesame street");
    let reading = begun(&gate, shown);
    gate.change(async |change| change.revoke(&name("ann"), &name("sales")).await.unwrap()).await;
    assert_eq!(roles(&reading.await), Vec::<String>::new(), "read again after the password was verified");
    assert_eq!(roles(&gate.authn.recall(&shown(), "/notes").unwrap()), Vec::<String>::new());
}

#[tokio::test]
async fn a_user_disabled_while_waiting_for_a_thread_is_not_let_in() {
    let gate = Gate::new().await;
    gate.make_slow().await;
    let waiting = tokio::spawn({
        let authn = Arc::clone(&gate.authn);
        async move { authn.identify(basic("ann:sesame street"), "/notes").await }
    });
    // In flight means: the store was read, ann was still enabled.
    while gate.authn.in_flight.is_empty() {
        tokio::task::yield_now().await;
    }
    gate.change(async |change| change.enable_user(&name("ann"), false).await.unwrap()).await;
    assert!(gate.pool.verifications() == 0, "the hash outlasts the change, or this test shows nothing");
    assert_eq!(rejected(&waiting.await.unwrap()), "the user is disabled");
    assert!(!gate.recalls(&basic("ann:sesame street")));
}

#[tokio::test]
async fn six_connections_of_one_browser_hash_once_and_sign_in_once() {
    let gate = Gate::with_queue(1).await;
    gate.make_slow().await;
    for (pair, good) in [("ann:sesame street", true), ("ann:wrong", false)] {
        let before = gate.pool.verifications();
        let outcomes = futures_util::future::join_all((0..6).map(|_| gate.basic(pair))).await;
        let signed_in = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::SignedIn(_))).count();
        let verified = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Verified(_))).count();
        assert_eq!((signed_in, signed_in + verified), if good { (1, 6) } else { (0, 0) }, "{outcomes:?}");
        assert_eq!(gate.pool.verifications(), before + 1);
    }
}

#[tokio::test]
async fn a_storm_of_sign_ins_is_refused_fast_and_tokens_still_work() {
    let gate = Gate::with_queue(2).await;
    gate.make_slow().await;
    let (token, _) = gate.add_token("ann", None, None).await;
    let storm = (0..40).map(|number| {
        let authn = Arc::clone(&gate.authn);
        tokio::spawn(async move { authn.identify(basic(&format!("ann:wrong {number}")), "/notes").await })
    });
    let storm: Vec<_> = storm.collect();
    assert!(gate.bearer(&token).await.principal().is_some());
    let mut busy = 0;
    for outcome in storm {
        match outcome.await.unwrap() {
            Outcome::Busy => busy += 1,
            other => assert_eq!(rejected(&other), "wrong password"),
        }
    }
    assert!(busy >= 30, "{busy}");
}

#[tokio::test]
async fn a_token_is_read_once_and_ends_when_it_is_revoked() {
    let gate = Gate::new().await;
    let (token, id) = gate.add_token("ann", Some("/notes"), None).await;
    assert!(matches!(gate.bearer(&token).await, Outcome::SignedIn(Principal::User(_))));
    assert!(gate.recalls(&bearer(token.reveal())));
    gate.authn.invalidate();
    assert!(matches!(gate.bearer(&token).await, Outcome::Verified(_)));
    gate.pass(60 * 60 * 1000);
    assert!(!gate.recalls(&bearer(token.reveal())), "looked up now and then, whether or not something changed");
    assert!(matches!(gate.bearer(&token).await, Outcome::SignedIn(_)));
    gate.change(async |change| change.revoke_token(&id).await.unwrap()).await;
    assert_eq!(rejected(&gate.bearer(&token).await), "the token was revoked");
    let (token, _) = gate.add_token("ann", None, None).await;
    gate.bearer(&token).await;
    gate.change(async |change| change.enable_user(&name("ann"), false).await.unwrap()).await;
    assert_eq!(rejected(&gate.bearer(&token).await), "the user is disabled");
}

#[tokio::test]
async fn the_tokens_of_a_disabled_service_end() {
    let gate = Gate::new().await;
    gate.change(async |change| change.add_service(&name("robot"), "").await.unwrap()).await;
    let (token, _) = gate.add_token("robot", None, None).await;
    assert!(gate.bearer(&token).await.principal().is_some());
    gate.change(async |change| change.enable_service(&name("robot"), false).await.unwrap()).await;
    assert_eq!(rejected(&gate.bearer(&token).await), "the service is disabled");
}

#[tokio::test]
async fn a_mistyped_token_never_reaches_the_store_and_an_unknown_one_is_rejected() {
    let gate = Gate::new().await;
    let (unknown, ..) = token::generate();
    assert_eq!(rejected(&gate.bearer(&unknown).await), "no such token");
    gate.store.close().await;
    let typo = format!("{}x", &unknown.reveal()[..52]);
    for bad in [typo.as_str(), "abc", "ptc_", "a.b", "a.b.c.d"] {
        assert_eq!(rejected(&gate.authn.identify(bearer(bad), "/notes").await), NOT_A_TOKEN, "{bad}");
    }
}

#[tokio::test]
async fn without_the_store_nobody_new_is_let_in() {
    let gate = Gate::new().await;
    let (token, _) = gate.add_token("ann", None, None).await;
    let (jwt, ..) = gate.add_jwt().await;
    gate.basic("ann:sesame street").await;
    gate.store.close().await;
    assert!(gate.recalls(&basic("ann:sesame street")), "who is known is still known");
    assert!(matches!(gate.bearer(&token).await, Outcome::Unavailable));
    assert!(matches!(gate.bearer(&jwt).await, Outcome::Unavailable));
    gate.authn.invalidate();
    assert!(matches!(gate.basic("ann:sesame street").await, Outcome::Unavailable));
    assert!(matches!(gate.basic("nobody:x").await, Outcome::Unavailable));
}

#[tokio::test]
async fn a_jwt_is_good_for_its_application_until_it_ends() {
    let gate = Gate::new().await;
    let (jwt, ..) = gate.add_jwt().await;
    let first = gate.bearer(&jwt).await;
    assert!(matches!(&first, Outcome::SignedIn(Principal::User(_))), "{first:?}");
    assert_eq!(roles(&first), ["sales"]);
    assert!(gate.recalls(&bearer(jwt.reveal())));
    // Remembered for one application, wrong for every other, before and after.
    assert!(gate.authn.recall(&bearer(jwt.reveal()), "/other").is_none());
    let other = gate.authn.identify(bearer(jwt.reveal()), "/other").await;
    assert_eq!(rejected(&other), jwt::BadJwt::Audience.why());
    assert!(gate.recalls(&bearer(jwt.reveal())));
    gate.pass(7200 * 1000);
    assert!(!gate.recalls(&bearer(jwt.reveal())));
    assert_eq!(rejected(&gate.bearer(&jwt).await), "the token has expired");
    gate.pass(jwt::LEEWAY_SECONDS * 1000);
    assert_eq!(rejected(&gate.bearer(&jwt).await), jwt::BadJwt::Expired.why());
}

#[tokio::test]
async fn the_record_of_a_jwt_has_the_last_word() {
    let gate = Gate::new().await;
    let (jwt, claims, signer) = gate.add_jwt().await;
    assert!(gate.bearer(&jwt).await.principal().is_some());
    gate.add_user("bob", None, None).await;
    let forged = Claims { sub: "bob".to_owned(), ..claims.clone() };
    let forged = jwt::issue(&signer, &forged).unwrap();
    assert_eq!(rejected(&gate.bearer(&forged).await), "a JWT whose subject is not its owner");
    let (_, opaque) = gate.add_token("ann", None, None).await;
    for jti in [opaque.as_str(), "tok_unknown", ""] {
        let unknown = jwt::issue(&signer, &Claims { jti: jti.to_owned(), ..claims.clone() }).unwrap();
        assert_eq!(rejected(&gate.bearer(&unknown).await), "no such token", "{jti}");
    }
    gate.change(async |change| change.revoke_token(&claims.jti).await.unwrap()).await;
    assert_eq!(rejected(&gate.bearer(&jwt).await), "the token was revoked");
}

#[tokio::test]
async fn a_new_signing_key_is_known_at_once_and_the_old_one_stays() {
    let gate = Gate::new().await;
    let (old, ..) = gate.add_jwt().await;
    gate.bearer(&old).await;
    let (new, ..) = gate.add_jwt().await;
    assert!(gate.bearer(&new).await.principal().is_some());
    assert!(gate.bearer(&old).await.principal().is_some());
}

#[tokio::test]
async fn nothing_and_ambiguity_are_answers_of_their_own() {
    let gate = Gate::new().await;
    let nothing = Presented::from_headers(&HeaderMap::new());
    assert!(matches!(gate.authn.recall(&nothing, "/notes"), Some(Outcome::NotPresented)));
    assert!(matches!(gate.authn.identify(nothing, "/notes").await, Outcome::NotPresented));
    let both = || {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, HeaderValue::from_static("Basic YTpi"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        Presented::from_headers(&headers)
    };
    assert!(matches!(gate.authn.recall(&both(), "/notes"), Some(Outcome::Ambiguous)));
    assert!(matches!(gate.authn.identify(both(), "/notes").await, Outcome::Ambiguous));
    let unknown = gate.authn.identify(presented("Digest x=1"), "/notes").await;
    assert_eq!(rejected(&unknown), "an authentication scheme that is not known here");
}

#[tokio::test]
async fn no_secret_is_shown() {
    let gate = Gate::new().await;
    let (token, _) = gate.add_token("ann", None, None).await;
    let shown = [
        format!("{:?}", gate.basic("ann:sesame street").await),
        format!("{:?}", gate.bearer(&token).await),
        format!("{:?}", gate.basic("ann:sesame wrong").await),
        format!("{:?}", basic("ann:sesame street")),
    ];
    for text in shown {
        assert!(!text.contains("sesame") && !text.contains("ptc_") && !text.contains("argon2"), "{text}");
    }
}
