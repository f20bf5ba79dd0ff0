//! Random policies in a running gateway, and random requests by everybody there is: what a client gets is what is
//! explained on paper, what `portcullis explain` prints, and what the slow reference says.

use std::{net::IpAddr, sync::Arc};

use portcullis::{
    model::{Method, MethodSet, Name, Principal, Verified},
    policy::{self, Application, Question},
    target::Target,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    harness::{BOTH, Gate, Setup, effort, repository},
    paths::seed,
    reference::{Naive, Reference, generate},
};

/// Policies that are in force together.
const TOGETHER: usize = 8;
/// Requests to them before others take their place.
const REQUESTS: usize = 120;
/// Of those, as many are explained by the program too.
const EXPLAINED: usize = 6;

const PASSWORD: &str = "a good long password";

/// Somebody who asks.
struct Somebody {
    name: &'static str,
    is_service: bool,
    roles: Vec<&'static str>,
    /// The public id of a token and its text; a password otherwise.
    token: Option<(String, String)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_gets_is_what_is_explained_and_what_the_reference_says() {
    let gate = Setup::level("minimal")
        .config("gateway", "trusted_proxies = [\"127.0.0.0/8\"]")
        .more("\n[networks]\noffice = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n[paths]\nassets = [\"/b/**\", \"/a/*\"]\n")
        .app("/p0", "oracle", "methods = [\"password\"]\n")
        .start();
    let everybody = everybody(&gate);
    let mut random = Random::new();
    let (mut compared, mut refused) = (0, 0);
    for _ in 0..effort("PORTCULLIS_POLICIES", 3) {
        let policies: Vec<_> = (0..TOGETHER).map(|number| random.policy(number, &everybody)).collect();
        for (number, text) in policies.iter().enumerate() {
            gate.write_policy(&format!("p{number}"), text);
        }
        gate.cli(&["reload"]);
        let (config, _) = portcullis::config::load(&gate.path("portcullis.toml")).unwrap();
        let (applications, _) = config.load_applications().unwrap();
        let references: Vec<_> = policies.iter().map(|text| Reference::read(text)).collect();
        for turn in 0..REQUESTS {
            let number = random.below(TOGETHER);
            let app = applications.iter().find(|app| *app.name == *format!("/p{number}")).unwrap();
            let asked = random.request(app, &everybody);
            let live = asked.live(&gate, BOTH[turn % 2]).await;
            let explained = asked.explained(app);
            assert_eq!(live, explained, "{asked:?}: live and explained\n{}", policies[number]);
            let slow = references[number].answer(&["unauthenticated", "password", "token"], &asked.naive);
            let said = if live.0 == 200 { "allowed by ".to_owned() } else { format!("{} {} ", live.0, live.1) };
            let agrees = slow.replace("40?", &live.0.to_string()).starts_with(&said);
            assert!(agrees, "{asked:?}: live {live:?}, the reference says {slow}\n{}", policies[number]);
            if turn < EXPLAINED {
                assert_eq!(asked.printed(&gate), live, "{asked:?}: `explain` and live\n{}", policies[number]);
            }
            compared += 1;
            refused += usize::from(live.0 != 200);
        }
    }
    println!("{compared} requests: live, explained and the reference agree ({refused} refused)");
    assert!(refused * 10 > compared && refused * 10 < compared * 9, "{refused} of {compared} refused prove little");
}

fn everybody(gate: &Gate) -> Vec<Somebody> {
    for role in ["r", "s"] {
        gate.cli(&["role", "add", role]);
    }
    let mut everybody = Vec::new();
    for (name, roles) in [("ann", vec![]), ("rita", vec!["r"]), ("zed", vec!["r", "s"])] {
        gate.user(name, PASSWORD, &roles);
        everybody.push(Somebody { name, is_service: false, roles: roles.clone(), token: None });
        let token = Some(token(gate, &["--user", name]));
        everybody.push(Somebody { name, is_service: false, roles, token });
    }
    for (name, roles) in [("bot", vec![]), ("robot", vec!["s"])] {
        gate.cli(&["service", "add", name]);
        for role in &roles {
            gate.cli(&["service", "grant", name, role]);
        }
        let token = Some(token(gate, &["--service", name]));
        everybody.push(Somebody { name, is_service: true, roles, token });
    }
    everybody
}

/// A token's public id and its text.
fn token(gate: &Gate, owner: &[&str]) -> (String, String) {
    let created = gate.cli(&[&["--json", "token", "create"], owner].concat());
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    let field = |key: &str| created[key].as_str().unwrap_or_else(|| panic!("{created}")).to_owned();
    (field("id"), field("token"))
}

/// Where chance comes from; the seed of a failure is printed.
struct Random(TestRunner);

impl Random {
    fn new() -> Self {
        println!("PORTCULLIS_SEED={}", seed());
        let seed = [seed().to_le_bytes(), [0; 8], [0; 8], [1; 8]].concat();
        Self(TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed)))
    }

    fn one<T: std::fmt::Debug>(&mut self, of: impl Strategy<Value = T>) -> T {
        of.new_tree(&mut self.0).unwrap().current()
    }

    fn below(&mut self, limit: usize) -> usize {
        self.one(0..limit)
    }

    /// A policy for one of the mounts that no mistake keeps from loading.
    fn policy(&mut self, number: usize, everybody: &[Somebody]) -> String {
        let id = everybody.iter().find_map(|somebody| somebody.token.as_ref()).map(|(id, _)| id).unwrap();
        loop {
            let text = self.one(generate::policy());
            if Reference::read(&text).overlaps() {
                continue;
            }
            let rest = text.split_once("module = \"m\"\n").unwrap().1.replace("tok_1", id);
            let directory = repository().join("tests/apps");
            let directory = directory.display();
            return format!("[app]\nname = \"/p{number}\"\ndirectory = \"{directory}\"\nmodule = \"oracle\"\n{rest}");
        }
    }

    fn request<'a>(&mut self, app: &Arc<Application>, everybody: &'a [Somebody]) -> Asked<'a> {
        let line = self.one(generate::line());
        let words: Vec<_> = line.split(' ').collect();
        let from: IpAddr = words[words.len() - 1].parse().unwrap();
        let who = self.below(everybody.len() + 3);
        let who = everybody.get(who);
        let below = if words[1] == "/" { String::new() } else { words[1].to_owned() };
        let by = match who {
            None => "unauthenticated",
            Some(Somebody { token: None, .. }) => "password",
            Some(_) => "token",
        };
        let naive = Naive {
            verb: words[0].to_owned(),
            path: format!("{}{below}", app.name),
            name: who.map(|who| who.name.to_owned()),
            is_service: who.is_some_and(|who| who.is_service),
            roles: who.map(|who| who.roles.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            by: by.to_owned(),
            credential: who.and_then(|who| who.token.as_ref()).map(|(id, _)| id.clone()),
            from: from.to_canonical(),
            only: None,
        };
        Asked { naive, from, who }
    }
}

/// One request, and who asks.
struct Asked<'a> {
    naive: Naive,
    /// As a proxy would write it.
    from: IpAddr,
    who: Option<&'a Somebody>,
}

impl std::fmt::Debug for Asked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.naive.fmt(f)
    }
}

impl Asked<'_> {
    async fn live(&self, gate: &Gate, http: crate::harness::Http) -> (u16, String) {
        let mut ask = gate.ask(&self.naive.verb, &self.naive.path).header("x-forwarded-for", &self.from.to_string());
        ask = match self.who {
            None => ask,
            Some(Somebody { name, token: None, .. }) => ask.basic(name, PASSWORD),
            Some(Somebody { token: Some((_, text)), .. }) => ask.bearer(text),
        };
        let answer = ask.over(http).await;
        (answer.code(), answer.header("portcullis-reason").unwrap_or("").to_owned())
    }

    fn explained(&self, app: &Application) -> (u16, String) {
        let name = |name: &str| Name::parse(name).unwrap();
        let principal = match self.who {
            None => Principal::Anonymous,
            Some(who) => {
                let verified = Arc::new(Verified {
                    name: name(who.name),
                    display: String::new(),
                    email: String::new(),
                    roles: who.roles.iter().map(|role| name(role)).collect(),
                    method: Method::from_word(&self.naive.by).unwrap(),
                    credential: who.token.as_ref().map(|(id, _)| id.as_str().into()),
                    applications: None,
                    validity: portcullis::model::Validity::default(),
                    encoded: bytes::Bytes::new(),
                });
                if who.is_service { Principal::Service(verified) } else { Principal::User(verified) }
            }
        };
        let method = http::Method::from_bytes(self.naive.verb.as_bytes()).unwrap();
        let question =
            Question { system: MethodSet::ALL, principal: &principal, method: &method, from: self.naive.from };
        let target =
            Target::parse(self.naive.path.parse().unwrap(), http::Version::HTTP_11, Some(b"localhost")).unwrap();
        let explained = policy::explain(app, &target, &question);
        (explained.status, explained.reason.unwrap_or("").to_owned())
    }

    /// What the program prints.
    fn printed(&self, gate: &Gate) -> (u16, String) {
        let who = self.who.map_or("anonymous", |who| who.token.as_ref().map_or(who.name, |(id, _)| id));
        let from = self.naive.from.to_string();
        let args = [
            "--json",
            "explain",
            &self.naive.verb,
            &self.naive.path,
            "--as",
            who,
            "--method",
            &self.naive.by,
            "--from",
            &from,
        ];
        let printed: serde_json::Value = serde_json::from_str(&gate.cli(&args)).unwrap();
        let status = u16::try_from(printed["status"].as_u64().unwrap()).unwrap();
        (status, printed["reason"].as_str().unwrap_or("").to_owned())
    }
}
