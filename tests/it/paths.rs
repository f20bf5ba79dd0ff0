//! The path oracle: whatever spelling is sent, nobody reaches a protected view unasked, and the path that was judged
//! is the path that ran. Bare, in Flask and in Django; and what is decided is what is explained and what the slow
//! reference says.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read, Seek, SeekFrom},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use portcullis::{
    model::{MethodSet, Principal},
    policy::{self, Application, Question, Routes},
    target::Target,
};
use rustls::ClientConfig;

use crate::{
    harness::{ADMIN, BOTH, Gate, PATIENCE, Setup, repository, venv},
    raw::{Raw, RawAnswer},
    reference::{Naive, Reference},
};

/// Four views. `/`, and Flask and Django below their mounts: all but `/admin` is open. `/shut`: nothing but `/public`
/// is open.
fn gate() -> Gate {
    let common = "methods = [\"unauthenticated\", \"password\"]\nworkers = 2\n";
    let keeper = "default = \"anyone\"\n[[allow]]\npath = \"/admin/**\"\nwho = \"role:keeper\"\n";
    let frameworks = repository().join("tests/apps/frameworks");
    let python = format!("{common}python = \"{}\"\n{keeper}", venv().display());
    let shut = "default = \"role:keeper\"\n[[allow]]\npath = \"/public/**\"\nwho = \"anyone\"\n";
    let gate = Setup::level("minimal")
        .config("logs", "max_bytes = \"10GiB\"")
        .app("/", "oracle", &format!("{common}{keeper}"))
        .app("/shut", "oracle", &format!("{common}{shut}"))
        .app_in("/flask", &frameworks, "oracle_flask", &python)
        .app_in("/django", &frameworks, "oracle_django", &python)
        .start();
    gate.user("keeper", "a keeper's password", &["keeper"]);
    gate
}

#[tokio::test]
async fn the_oracle_speaks_to_whom_the_rules_let_in() {
    let gate = gate();
    for http in BOTH {
        for path in ["/admin", "/admin/", "/admin/users", "/shut/admin", "/shut/ADMIN;x=1/%20"] {
            let keeper = gate.get(path).basic("keeper", "a keeper's password").over(http).await;
            assert_eq!(keeper.code(), 200, "{path}: {}", keeper.text());
            assert_eq!(keeper.header("x-generous"), Some("yes"), "{path}");
            for ask in [gate.get(path), gate.get(path).basic(ADMIN.0, ADMIN.1)] {
                let answer = ask.over(http).await;
                assert!(matches!(answer.code(), 401 | 403) && answer.header("x-generous").is_none(), "{path}");
            }
        }
        for framework in ["/flask", "/django"] {
            for path in ["/admin", "/admin/", "/admin/users"] {
                let ask = gate.get(&format!("{framework}{path}"));
                let keeper = ask.basic("keeper", "a keeper's password").over(http).await;
                assert_eq!((keeper.code(), keeper.header("x-protected")), (200, Some("yes")), "{framework}{path}");
                assert_eq!(gate.get(&format!("{framework}{path}")).over(http).await.code(), 401);
            }
            assert_eq!(gate.get(&format!("{framework}/x")).over(http).await.code(), 200);
        }
        assert_eq!(gate.get("/elsewhere").over(http).await.header("x-protected"), None);
        assert_eq!(gate.get("/shut/public/page").over(http).await.code(), 200);
    }
}

#[tokio::test]
async fn every_line_of_the_corpus_has_its_outcome() {
    let gate = gate();
    let tls = gate.tls(&[b"http/1.1"]);
    let file = std::fs::read_to_string(repository().join("tests/corpus/paths.txt")).unwrap();
    let mut wrong = Vec::new();
    let lines = file.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with("# "));
    for (number, line) in lines {
        let (input, expected) = line.split_once(" => ").unwrap_or_else(|| panic!("line {}: {line}", number + 1));
        let (method, target) = input.split_once(' ').unwrap_or(("GET", input));
        let target = unescape(target);
        let mut raw = Raw::with(&gate, &tls).await;
        let request = [method.as_bytes(), b" ", &target, b" HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat();
        raw.send(request).await;
        let outcome = match raw.answer().await {
            None => "closed".to_owned(),
            Some(answer) if answer.code == 200 => format!("200 {}", escape(&ran(&answer.json()))),
            Some(answer) => format!("{} {}", answer.code, answer.reason()).trim_end().to_owned(),
        };
        if outcome != expected.trim() {
            wrong.push(format!("{}: {input} => {outcome}, not {expected}", number + 1));
        }
    }
    assert!(wrong.is_empty(), "tests/corpus/paths.txt:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mutation_over_http1_opens_a_protected_view() {
    let gate = gate();
    let mut seen = Seen::new(&gate);
    let tls = gate.tls(&[b"http/1.1"]);
    let mut mutations = Mutations::announced("HTTP/1.1").take(how_many()).peekable();
    while mutations.peek().is_some() {
        let round: Vec<_> = mutations.by_ref().take(ROUND).collect();
        let (mut sent, mut together) = (0, 200);
        while sent < round.len() {
            // One connection as far as it goes: what it refuses to parse ends it, and the next one goes on behind that.
            let batch = &round[sent..round.len().min(sent + together)];
            let answered = pipeline(&gate, &tls, batch, sent, &mut seen).await;
            // A close with bytes unread may overtake an answer that was sent before it: whoever got none asks alone.
            assert!(answered > 0 || together > 1, "{}: closed without an answer", escape(&batch[0]));
            together = if answered == 0 { 1 } else { 200 };
            sent += answered;
        }
        seen.compare(&gate);
    }
    seen.check("HTTP/1.1");
}

/// Requests whose log lines are compared together.
const ROUND: usize = 20_000;

/// Sends a batch without waiting for answers; tells how many came before the connection ended.
async fn pipeline(gate: &Gate, tls: &Arc<ClientConfig>, batch: &[Vec<u8>], first: usize, seen: &mut Seen) -> usize {
    let mut raw = Raw::with(gate, tls).await;
    let mut requests = Vec::new();
    for (index, target) in batch.iter().enumerate() {
        requests.extend_from_slice(b"GET ");
        requests.extend_from_slice(target);
        let number = first + index;
        requests.extend_from_slice(format!(" HTTP/1.1\r\nHost: localhost\r\nX-Number: {number}\r\n\r\n").as_bytes());
    }
    raw.send(requests).await;
    for (index, target) in batch.iter().enumerate() {
        let Some(RawAnswer { code, head, body }) = raw.answer().await else {
            return index;
        };
        let head = head.to_ascii_lowercase();
        let reason = head.lines().find_map(|line| line.strip_prefix("portcullis-reason: ")).unwrap_or("").to_owned();
        let (protected, generous) = (head.contains("x-protected"), head.contains("x-generous"));
        seen.note(target, path_sent(target, false), &Came { code, reason, protected, generous, body: &body });
        if code == 200 {
            let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(document["number"], (first + index).to_string(), "answers stay with their requests");
        }
        if head.contains("connection: close") {
            return index + 1;
        }
    }
    batch.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mutation_over_http2_opens_a_protected_view() {
    let gate = gate();
    let mut seen = Seen::new(&gate);
    let sendable = |target: &Vec<u8>| {
        let authority = if target.starts_with(b"/") { &b"https://localhost"[..] } else { b"" };
        http::Uri::try_from([authority, target].concat()).ok().map(|uri| (target.clone(), uri))
    };
    let mut mutations =
        Mutations::announced("HTTP/2").filter_map(|target| sendable(&target)).take(how_many()).peekable();
    let sender = gate.http2().await;
    while mutations.peek().is_some() {
        for _ in 0..ROUND / 64 {
            let mut streams = tokio::task::JoinSet::new();
            for (target, uri) in mutations.by_ref().take(64) {
                let mut sender = sender.clone();
                streams.spawn(async move {
                    let body = BoxBody::new(Empty::<Bytes>::new().map_err(|never| match never {}));
                    let sent_path = percent_decoded(uri.path().as_bytes());
                    let request = http::Request::get(uri).body(body).unwrap();
                    let response = sender.send_request(request).await.expect("an answer");
                    let (code, headers) = (response.status().as_u16(), response.headers().clone());
                    let body = response.into_body().collect().await.expect("a body").to_bytes();
                    (target, sent_path, code, headers, body)
                });
            }
            while let Some(done) = streams.join_next().await {
                let (target, sent_path, code, headers, body) = done.unwrap();
                let reason = headers.get("portcullis-reason").map_or("", |reason| reason.to_str().unwrap()).to_owned();
                let (protected, generous) = (headers.contains_key("x-protected"), headers.contains_key("x-generous"));
                seen.note(&target, sent_path, &Came { code, reason, protected, generous, body: &body });
            }
        }
        seen.compare(&gate);
    }
    seen.check("HTTP/2");
}

/// An answer, as far as the oracles look at it.
struct Came<'a> {
    code: u16,
    reason: String,
    protected: bool,
    generous: bool,
    body: &'a [u8],
}

/// What came of the mutations, and what should have.
struct Seen {
    routes: Routes,
    references: Vec<(String, Reference)>,
    codes: BTreeMap<u16, usize>,
    /// Answers that were compared with the explanation and the reference.
    judged: usize,
    /// By request id: what ran, and what was sent.
    ran: HashMap<String, (Vec<u8>, Vec<u8>)>,
    /// Requests whose judged path was compared with the one that ran, and how far the log has been read for that.
    compared: usize,
    read: u64,
}

impl Seen {
    fn new(gate: &Gate) -> Self {
        let (config, _) = portcullis::config::load(&gate.path("portcullis.toml")).unwrap();
        let (applications, _) = config.load_applications().unwrap();
        let reference = |app: &Arc<Application>| {
            let text = std::fs::read_to_string(gate.path(&app.file)).unwrap();
            (app.name.to_string(), Reference::read(&text))
        };
        Self {
            references: applications.iter().map(reference).collect(),
            routes: Routes::new(applications),
            codes: BTreeMap::new(),
            judged: 0,
            ran: HashMap::new(),
            compared: 0,
            read: 0,
        }
    }

    fn note(&mut self, sent: &[u8], sent_path: Option<Vec<u8>>, came: &Came<'_>) {
        let shown = escape(sent);
        *self.codes.entry(came.code).or_default() += 1;
        assert!(!came.protected, "{shown} reached a protected view: {}", escape(came.body));
        // Frameworks redirect and miss by themselves.
        let code = came.code;
        assert!(matches!(code, 200 | 301 | 308 | 400 | 401 | 403 | 404 | 405 | 414 | 421), "{shown}: {code}");
        self.judge(sent, sent_path.as_deref(), came);
        if code != 200 {
            return;
        }
        let document: serde_json::Value = serde_json::from_slice(came.body).unwrap_or_else(|_| panic!("{shown}"));
        let ran = ran(&document);
        assert!(!(came.generous && document["script"] == "/shut"), "{shown} reached a shut view: {document}");
        assert_eq!(sent_path.map(|path| escape(&path)), Some(escape(&ran)), "{shown}: what was sent is not what ran");
        self.ran.insert(document["request"].as_str().unwrap().to_owned(), (ran, sent.to_vec()));
    }

    /// The answer, its explanation and the slow reference say the same.
    fn judge(&mut self, sent: &[u8], sent_path: Option<&[u8]>, came: &Came<'_>) {
        const BEFORE_ANY_RULE: [&str; 5] =
            ["bad-request", "bad-path", "bad-host", "host-not-served", "http-method-refused"];
        // The HTTP library itself refuses without a reason, and so do the frameworks, but not with these.
        let by_the_library = came.reason.is_empty() && matches!(came.code, 400 | 405 | 414 | 421);
        if by_the_library || BEFORE_ANY_RULE.contains(&came.reason.as_str()) {
            return;
        }
        let shown = escape(sent);
        let live = if came.reason.is_empty() { "allowed" } else { &came.reason };
        let uri = http::Uri::try_from(sent).unwrap_or_else(|_| panic!("{shown} is no URI, and yet {live}"));
        let target = Target::parse(uri, http::Version::HTTP_11, Some(b"localhost"))
            .unwrap_or_else(|bad| panic!("{shown} is refused on paper ({bad}), and yet {live}"));
        let question = Question {
            system: MethodSet::ALL,
            principal: &Principal::Anonymous,
            method: &http::Method::GET,
            from: [127, 0, 0, 1].into(),
        };
        let app = self.routes.find(target.path()).expect("`/` owns every path");
        let explained = policy::explain(app, &target, &question);
        assert_eq!(explained.reason.unwrap_or("allowed"), live, "{shown}: explained and live\n{explained}");
        assert!(explained.allowed || explained.status == came.code, "{shown}: {explained}");

        let path = String::from_utf8(sent_path.expect("what was judged can be decoded").to_vec()).unwrap();
        let inside = |mount: &str| mount == "/" || path == mount || path.starts_with(&format!("{mount}/"));
        let owners = self.references.iter().filter(|(mount, _)| inside(mount));
        let (_, reference) = owners.max_by_key(|(mount, _)| mount.len()).unwrap();
        let asked = Naive {
            verb: "GET".to_owned(),
            path: path.clone(),
            name: None,
            is_service: false,
            roles: Vec::new(),
            by: "unauthenticated".to_owned(),
            credential: None,
            from: [127, 0, 0, 1].into(),
            only: None,
        };
        let slow = reference.answer(&["unauthenticated", "password", "token"], &asked);
        let agrees = match live {
            "allowed" => slow.starts_with("allowed by "),
            reason => slow.starts_with(&format!("{} {reason} ", came.code)),
        };
        assert!(agrees, "{shown}: live {} {live}, the reference says {slow}", came.code);
        self.judged += 1;
    }

    /// Every path that ran since the last time is the path that was judged.
    fn compare(&mut self, gate: &Gate) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !self.ran.is_empty() {
            assert!(std::time::Instant::now() < deadline, "{} requests left no line", self.ran.len());
            let mut file = std::fs::File::open(gate.path("logs/access.log")).unwrap();
            file.seek(SeekFrom::Start(self.read)).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            // The last line may still be being written.
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            for line in whole.lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
                let Some((ran, sent)) = self.ran.remove(line["request"].as_str().unwrap()) else { continue };
                let judged = line["path"].as_str().unwrap().as_bytes();
                assert_eq!(escape(judged), escape(&ran), "{}: judged and ran", escape(&sent));
                self.compared += 1;
            }
            self.read += whole.len() as u64;
        }
    }

    /// There were enough of every kind to say so.
    #[allow(clippy::print_stdout, reason = "a failure is understood and repeated with what was printed")]
    fn check(self, over: &str) {
        let total: usize = self.codes.values().sum();
        println!(
            "{over}: {total} mutated requests, 0 reached a protected view; {} judged paths are what ran; {} answers are \
             what is explained and what the reference says; statuses {:?}",
            self.compared, self.judged, self.codes
        );
        for code in [200, 400, 401] {
            let count = self.codes.get(&code).copied().unwrap_or(0);
            assert!(count * 20 > total, "too few {code} to prove anything: {:?}", self.codes);
        }
        assert!(self.judged * 4 > total && self.compared * 5 > total, "too little was compared");
    }
}

/// `SCRIPT_NAME` + `PATH_INFO` as bytes.
fn ran(document: &serde_json::Value) -> Vec<u8> {
    let native = |key: &str| document[key].as_str().unwrap_or_else(|| panic!("{document}")).to_owned();
    (native("script") + &native("path")).chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

/// The path of a request-target, decoded once, by other code than the gate's.
fn path_sent(target: &[u8], fragment: bool) -> Option<Vec<u8>> {
    let mut rest = target;
    for scheme in ["https://", "http://"] {
        if rest.len() >= scheme.len() && rest[..scheme.len()].eq_ignore_ascii_case(scheme.as_bytes()) {
            let authority = &rest[scheme.len()..];
            let end = authority.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(authority.len());
            rest = &authority[end..];
        }
    }
    let end = rest.iter().position(|byte| *byte == b'?' || (fragment && *byte == b'#')).unwrap_or(rest.len());
    let path = if rest[..end].is_empty() { b"/" } else { &rest[..end] };
    percent_decoded(path)
}

fn percent_decoded(path: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut parts = path.split(|byte| *byte == b'%');
    decoded.extend_from_slice(parts.next()?);
    for part in parts {
        let digits = std::str::from_utf8(part.get(..2)?).ok()?;
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        decoded.extend_from_slice(&part[2..]);
    }
    Some(decoded)
}

fn how_many() -> usize {
    usize::try_from(crate::harness::effort("PORTCULLIS_MUTATIONS", 3000)).expect("a number")
}

#[allow(clippy::disallowed_methods, reason = "a failure is tried again with the seed it printed")]
pub fn seed() -> u64 {
    std::env::var("PORTCULLIS_SEED").map_or(0x9e37_79b9_7f4a_7c15, |seed| seed.parse().expect("a number"))
}

/// Request-targets, endlessly: good paths, spoiled.
struct Mutations(u64);

/// What a path is mounted at; the first is `/` itself.
const MOUNTS: [&str; 3] = ["", "/flask", "/django"];

const BEGINNINGS: [&str; 14] = [
    "/admin",
    "/admin/",
    "/admin/users",
    "/public/page",
    "/public/../admin",
    "/public/./admin/users",
    "/x/../admin/x",
    "/shut/admin",
    "/shut/public/page",
    "/shut/public/../admin",
    "/shut/public/x/../../admin",
    "/shut/public",
    "/shut/public/a/b/c",
    "/administrator",
];

const INSERTED: [&str; 40] = [
    "/",
    "//",
    "/.",
    "/..",
    "/../",
    "/./",
    "..",
    ".",
    ";",
    ";x=1",
    "\\",
    "..\\",
    "%2f",
    "%2F",
    "%5c",
    "%5C",
    "%00",
    "%0a",
    "%0d",
    "%09",
    "%20",
    "%2e",
    "%2e%2e",
    "%2e%2e%2f",
    "..%2f",
    ".%2e",
    "%252e",
    "%252f",
    "%2561",
    "%7f",
    "%",
    "%zz",
    "%u002f",
    "?",
    "?path=/public",
    "#",
    "%23",
    "%3f",
    "*",
    "@",
];

/// Ways to write `/`, `.` and `a` that some decoder somewhere takes for them.
const DISGUISES: [(u8, [&str; 7]); 3] = [
    (b'/', ["%c0%af", "%e0%80%af", "%ef%bc%8f", "%e2%88%95", "%e2%81%84", "%c1%9c", "%ef%bc%bc"]),
    (b'.', ["%c0%ae", "%e0%80%ae", "%ef%bc%8e", "%e2%80%a4", "%e3%80%82", "%ef%bd%a1", "%80%ae"]),
    (b'a', ["%c1%a1", "%ef%bd%81", "%c3%a1", "a%cc%81", "%d0%b0", "%e2%93%90", "\u{ff41}"]),
];

impl Mutations {
    /// The seed is printed, so that a failure can be repeated.
    #[allow(clippy::print_stdout, reason = "a failure is understood and repeated with what was printed")]
    fn announced(over: &str) -> Self {
        println!("{over}: PORTCULLIS_SEED={}", seed());
        Self(seed())
    }

    /// xorshift64*, enough for this and the same everywhere.
    fn random(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.random() % limit as u64).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn spoil(&mut self, path: &mut Vec<u8>) {
        // Never before the first slash: such a target is not even a path, and the corpus has those.
        let at = 1 + self.below(path.len());
        match self.below(10) {
            0..=2 => {
                let at = at.min(path.len() - 1);
                let encoded =
                    if self.below(3) == 0 { format!("%25{:02x}", path[at]) } else { format!("%{:02X}", path[at]) };
                path.splice(at..=at, encoded.into_bytes());
            }
            3..=5 => {
                let inserted = self.pick(&INSERTED);
                path.splice(at..at, inserted.bytes());
            }
            6 => {
                let at = at.min(path.len() - 1);
                path[at] = if path[at].is_ascii_lowercase() { path[at].to_ascii_uppercase() } else { path[at] };
            }
            7 => {
                let (byte, disguises) = DISGUISES[self.below(DISGUISES.len())];
                let disguise = self.pick(&disguises);
                if let Some(at) = path.iter().skip(1).position(|b| *b == byte) {
                    path.splice(at + 1..at + 2, disguise.bytes());
                }
            }
            8 => {
                let all: String = path[1..]
                    .iter()
                    .map(|byte| if self.below(2) == 0 { format!("%{byte:02x}") } else { char::from(*byte).to_string() })
                    .collect();
                path.splice(1.., all.bytes());
            }
            _ => {
                // Any byte but those that end a line or a target: they would be another request.
                let byte = u8::try_from(self.below(256)).unwrap();
                if !matches!(byte, b'\n' | b'\r' | b' ' | b'\t') && self.below(8) == 0 {
                    path.insert(at, byte);
                } else {
                    path.splice(at..at, format!("%{byte:02x}").bytes());
                }
            }
        }
    }
}

impl Iterator for Mutations {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let (mount, beginning) = (self.pick(&MOUNTS), self.pick(&BEGINNINGS));
        let mut path = [mount, beginning].concat().into_bytes();
        for _ in 0..self.below(4) {
            self.spoil(&mut path);
        }
        Some(match self.below(12) {
            0 => [b"https://localhost", &path[..]].concat(),
            1 => [b"HTTP://LOCALHOST:443", &path[..]].concat(),
            _ => path,
        })
    }
}

/// Bytes as they stand in the corpus: what is not plain is `\xNN`.
fn escape(bytes: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b'\\' => "\\\\".to_owned(),
        0x21..=0x7e => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(one).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = after;
            }
            (b'\\', [b'\\', after @ ..]) => {
                bytes.push(b'\\');
                rest = after;
            }
            _ => bytes.push(byte),
        }
    }
    bytes
}
