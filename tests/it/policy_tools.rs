//! The tools for policies through the real program: what happened to a request and would happen now, who could do
//! something, what a change does, whether policies do what they say, and what could be safer.

use std::{fs, process::Output};

use serde_json::Value;

use crate::harness::{Gate, Http, Installation, Setup, text};

const PASSWORD: &str = "a good long password";

const RULES: &str = "methods = [\"password\", \"token\"]
default = \"signed-in\"

[[allow]]
path    = \"/orders/*\"
methods = [\"GET\"]
who     = \"role:sales\"

[[allow]]
path = \"/admin/**\"
who  = \"role:administrator\"
from = \"10.0.0.0/8\"

[[deny]]
path       = \"/secret/**\"
unless_who = \"role:administrator\"
";

fn setup(more: &str) -> Setup {
    Setup::level("normal").app("/notes", "contract", &format!("{RULES}{more}"))
}

fn installation() -> Installation {
    let gate = setup("").install();
    gate.user("ann", PASSWORD, &["sales"]);
    gate.user("bob", PASSWORD, &[]);
    gate.cli(&["role", "add", "manager", "--includes", "sales"]);
    gate.user("carl", PASSWORD, &["manager"]);
    gate
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn json(gate: &Installation, args: &[&str]) -> Value {
    let output = gate.command(&[&["--json"], args].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{args:?}: {output:?}"))
}

fn edit(gate: &Installation, from: &str, to: &str) {
    let file = gate.path("policies/notes.toml");
    let policy = fs::read_to_string(&file).unwrap();
    assert!(policy.contains(from), "{policy}");
    fs::write(file, policy.replace(from, to)).unwrap();
}

/// Asks for a path that nobody asked for before, and gives the id under which that was logged.
async fn asked(gate: &Gate, path: &str, password: &str) -> String {
    gate.get(path).basic("ann", password).over(Http::One).await;
    let logged = path.replace("%20", " ");
    gate.await_log("access.log", |line| line["path"] == *logged)["request"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_request_is_told_as_it_was_logged_and_asked_again_now() {
    let gate = setup("[[deny]]\npath = \"/tried\"\nmode = \"report\"\n").start();
    gate.user("ann", PASSWORD, &["sales"]);
    let again = |id: &str| json(&gate, &["explain", "--request", id]);
    let allowed = asked(&gate, "/notes/orders/7%20b", PASSWORD).await;
    let refused = asked(&gate, "/notes/secret/x", PASSWORD).await;
    let tried = asked(&gate, "/notes/tried", PASSWORD).await;
    let wrong = asked(&gate, "/notes/orders/8", "not it").await;
    let bad = asked(&gate, "/notes/%2e%2e/x", PASSWORD).await;
    let nowhere = asked(&gate, "/nowhere", PASSWORD).await;

    for (id, reason) in [(&allowed, Value::Null), (&refused, "denied-by-rule".into()), (&tried, Value::Null)] {
        let told = again(id);
        assert_eq!(
            (&told["logged"]["reason"], &told["now"]["reason"], &told["same"]),
            (&reason, &reason, &true.into())
        );
        assert_eq!(told["now"]["rule"], told["logged"]["rule"], "{told}");
    }
    assert_eq!(again(&nowhere)["same"], true);
    assert_eq!(again(&tried)["now"]["would_refuse"]["reason"], "denied-by-rule");
    for id in [&wrong, &bad] {
        let told = again(id);
        assert_eq!((&told["now"], &told["same"]), (&Value::Null, &Value::Null), "{told}");
        assert!(told["not_asked"].as_str().is_some_and(|why| !why.is_empty()), "{told}");
    }

    let told = gate.cli(&["explain", "--request", &refused]);
    for words in
        ["then  refused: 403 denied-by-rule  GET /notes/secret/x", "ann (password)", "| [[deny]]", "now   the same"]
    {
        assert!(told.contains(words), "{words} in\n{told}");
    }

    // The files and the store change: what was logged stays, what holds now is told apart.
    edit(&gate, "unless_who = \"role:administrator\"", "unless_who = \"role:sales\"");
    let told = again(&refused);
    assert_eq!(
        (&told["logged"]["reason"], &told["now"]["allowed"]),
        (&"denied-by-rule".into(), &true.into()),
        "{told}"
    );
    assert_eq!(told["same"], false);
    let told = gate.cli(&["explain", "--request", &refused]);
    assert!(told.contains("now   different: files or store have changed since"), "{told}");
    gate.cli(&["user", "revoke", "ann", "sales"]);
    assert_eq!(again(&allowed)["now"]["reason"], "not-allowed-by-rule");
    gate.cli(&["user", "disable", "ann"]);
    assert_eq!(again(&allowed)["rejected"], "the user is disabled");
    gate.cli(&["user", "remove", "ann"]);
    let told = again(&allowed);
    assert_eq!((&told["now"]["reason"], &told["same"]), (&"credentials-rejected".into(), &false.into()), "{told}");

    let unknown = gate.command(&["explain", "--request", "0000"]);
    assert!(code(&unknown) == 1 && text(&unknown.stderr).contains("there is no request `0000`"), "{unknown:?}");
    assert_eq!(code(&gate.command(&["explain", "GET", "/notes", "--request", "0000"])), 2);
    assert_eq!(code(&gate.command(&["explain"])), 2);
}

#[tokio::test]
async fn a_request_is_found_in_a_rotated_file_too() {
    let gate = setup("").start();
    gate.user("ann", PASSWORD, &["sales"]);
    let id = asked(&gate, "/notes/orders/7", PASSWORD).await;
    fs::rename(gate.path("logs/access.log"), gate.path("logs/access.log.3")).unwrap();
    assert_eq!(json(&gate, &["explain", "--request", &id])["same"], true);
}

#[test]
fn explain_quotes_the_lines_that_decided() {
    let gate = installation();
    let told = gate.cli(&["explain", "GET", "/notes/admin/x", "--as", "ann"]);
    assert!(told.starts_with("refused: 403 network-not-allowed  GET /notes/admin/x  as ann (password)"), "{told}");
    assert!(told.contains("decided by policies/notes.toml:") && told.contains("| from = \"10.0.0.0/8\"\n"), "{told}");
    let told = gate.cli(&["explain", "GET", "/notes/x", "--as", "ann"]);
    assert!(told.starts_with("allowed  GET /notes/x") && told.contains("| default = \"signed-in\"\n"), "{told}");
    assert!(!told.contains('\u{1b}'), "no colour where there is no terminal");
    let quoted = json(&gate, &["explain", "GET", "/notes/admin/x", "--as", "ann"]);
    assert!(quoted["quote"]["text"].as_str().unwrap().starts_with("[[allow]]\npath = \"/admin/**\""), "{quoted}");
}

#[test]
fn who_can_finds_everybody_by_what_they_hold_and_by_their_tokens() {
    let gate = installation();
    gate.user("dora", PASSWORD, &["sales"]);
    gate.cli(&["user", "disable", "dora"]);
    gate.cli(&["service", "add", "till"]);
    gate.cli(&["service", "grant", "till", "sales"]);
    gate.token(&["--service", "till", "--app", "/notes"]);
    gate.token(&["--user", "carl"]);
    let group = |args: &[&str], number: usize| json(&gate, &[&["who-can"], args].concat())["groups"][number].clone();
    let names = |group: &Value, key: &str| -> Vec<String> {
        let words = group[key].as_array().unwrap_or_else(|| panic!("{group}")).iter();
        words.map(|word| word["owner"].as_str().or(word.as_str()).unwrap().to_owned()).collect()
    };
    let sales = group(&["GET", "/notes/orders/7"], 0);
    assert_eq!(names(&sales, "users"), ["ann", "carl"], "carl is a manager, and managers are sales");
    let mut owners = names(&sales, "tokens");
    owners.sort();
    assert_eq!((owners, names(&sales, "signed_in")), (vec!["carl".to_owned(), "service till".to_owned()], vec![]));
    let anybody = group(&["GET", "/notes/x"], 0);
    assert_eq!(names(&anybody, "signed_in"), ["password", "token"]);
    assert_eq!(names(&anybody, "users"), ["ann", "bob", "carl", "root"]);
    assert_eq!(group(&["GET", "/notes/admin"], 0), Value::Null);
    assert_eq!(names(&group(&["GET", "/notes/admin", "--from", "10.1.2.3"], 0), "users"), ["root"]);
    assert_eq!(json(&gate, &["who-can", "GET", "/nowhere"])["reason"], "no-application");

    let told = gate.cli(&["who-can", "GET", "/notes/orders/7"]);
    assert!(told.contains("policies/notes.toml:") && told.contains("allow GET /orders/* who role:sales"), "{told}");
    assert!(told.contains("  password  ann, carl\n"), "{told}");
    assert!(told.ends_with("2 users by password, 2 tokens; left out: 1 user disabled\n"), "{told}");
    // A token for another application opens nothing here.
    let other = gate.token(&["--user", "ann", "--app", "/notes"]);
    assert!(other.starts_with("ptc_"));
    let policy = fs::read_to_string(gate.path("policies/notes.toml")).unwrap();
    gate.write_policy("other", &policy.replace("\"/notes\"", "\"/other\""));
    let tokens = names(&group(&["GET", "/other/orders/7"], 0), "tokens");
    assert_eq!(tokens, ["carl"]);
}

#[test]
fn a_change_is_told_by_whom_it_gives_and_takes_what() {
    let gate = installation();
    fs::create_dir(gate.path("old")).unwrap();
    fs::copy(gate.path("policies/notes.toml"), gate.path("old/notes.toml")).unwrap();
    let (directory, file) = (gate.path("old"), gate.path("old/notes.toml"));
    let (directory, file) = (directory.to_str().unwrap(), file.to_str().unwrap());
    let same = gate.command(&["policy", "diff", directory]);
    assert_eq!((code(&same), text(&same.stdout).starts_with("nobody gains or loses anything")), (0, true), "{same:?}");

    edit(&gate, "methods = [\"GET\"]", "methods = [\"GET\", \"PUT\"]");
    let told = gate.command(&["policy", "diff", directory]);
    let words = text(&told.stdout);
    assert_eq!(code(&told), 1);
    for line in [
        "/notes\n",
        "  signed-in: anybody who signed in\n",
        "    - PUT  /notes/orders/*\n",
        "old/notes.toml:6  default signed-in\n",
        "is  policies/notes.toml:8  allow GET, PUT /orders/* who role:sales\n",
    ] {
        assert!(words.contains(line), "{line} in\n{words}");
    }
    let changes =
        |args: &[&str]| json(&gate, &[&["policy", "diff"], args].concat())["changes"].as_array().unwrap().clone();
    let whole = changes(&[directory]);
    let real: Vec<_> = whole.iter().filter(|change| change["kind"] == "store").collect();
    // Ann and Carl are sales, so what they do at /orders/* goes on; whoever else signed in loses PUT.
    assert_eq!(real.len(), 1, "{whole:#?}");
    assert_eq!(
        (&real[0]["who"], &real[0]["gained"]),
        (&serde_json::json!(["bob (password)", "root (password)"]), &false.into())
    );

    // A single file stands for its application among the others.
    let policy = fs::read_to_string(gate.path("policies/notes.toml")).unwrap();
    gate.write_policy("other", &policy.replace("\"/notes\"", "\"/other\""));
    assert_eq!(changes(&[file]).len(), whole.len());
    assert!(changes(&[directory]).iter().any(|change| change["application"] == "/other"));

    let missing = gate.command(&["policy", "diff", "/nowhere"]);
    assert!(code(&missing) == 3 && text(&missing.stderr).contains("cannot be read"), "{missing:?}");
    fs::write(file, "[app]\nnam = 1\n").unwrap();
    assert_eq!(code(&gate.command(&["policy", "diff", file])), 3);
    fs::remove_file(gate.path("data/portcullis.sqlite3")).unwrap();
    let without = gate.command(&["policy", "diff", gate.path("policies").to_str().unwrap()]);
    assert!(code(&without) == 0 && text(&without.stderr).contains("there is no store"), "{without:?}");
}

#[test]
fn policies_are_held_to_what_they_say_and_cases_to_all_of_them() {
    let expect =
        "[[expect]]\nrequest = \"GET /notes/orders/7\"\nas = { \"role:sales\" = \"allow\", anonymous = \"sign-in\" }\n";
    let gate = setup(expect).install();
    let cases = |more: &str| {
        let text = format!("[[case]]\nrequest = \"GET /notes/secret/x\"\nas = {{ \"role:sales\" = \"deny\" }}\n{more}");
        fs::write(gate.path("policies/all.cases.toml"), text).unwrap();
    };
    cases("");
    let good = gate.cli(&["policy", "test"]);
    assert!(good.contains("policies/notes.toml      2 expectations\n"), "{good}");
    assert!(good.contains("policies/all.cases.toml  1 expectation\n"), "{good}");
    assert!(gate.cli(&["check", "--no-import"]).contains("1 case kept"), "check runs them");

    cases("\n[[case]]\nrequest = \"GET /notes/orders/7\"\nas = { \"user:bob\" = \"allow\" }\n");
    let failed = gate.command(&["policy", "test"]);
    let said = text(&failed.stderr);
    assert_eq!(code(&failed), 1);
    assert!(said.contains("user:bob is expected to get `allow`, and gets `deny`"), "{said}");
    assert!(said.contains("--> policies/all.cases.toml:7:21"), "{said}");
    assert!(text(&failed.stdout).contains("failed  policies/all.cases.toml  1 of 2 expectations"), "{failed:?}");
    let only = gate.path("policies/notes.toml");
    assert_eq!(code(&gate.command(&["policy", "test", only.to_str().unwrap()])), 0);
    let checked = gate.command(&["check", "--no-import"]);
    assert!(code(&checked) == 3 && text(&checked.stderr).contains("all.cases.toml:7:21"), "{checked:?}");

    edit(&gate, "who     = \"role:sales\"", "who     = \"role:buyer\"");
    let told = json(&gate, &["policy", "test"]);
    assert_eq!((&told["ok"], &told["expected"], &told["failed"]), (&false.into(), &4.into(), &2.into()), "{told:#}");

    fs::write(gate.path("policies/all.cases.toml"), "[[case]]\nrequest = \"GET\"\nas = { nobody = 1 }\n").unwrap();
    let unread = gate.command(&["policy", "test"]);
    let said = text(&unread.stderr);
    assert!(
        code(&unread) == 1 && said.contains("all.cases.toml:2:11") && said.contains("cannot be understood"),
        "{said}"
    );
    let stray = gate.path("portcullis.toml");
    assert_eq!(code(&gate.command(&["policy", "test", stray.to_str().unwrap()])), 2);
}

#[test]
fn rules_that_name_nobody_are_noticed_where_there_is_a_store() {
    let gate = setup("").install();
    let output = gate.command(&["check", "--no-import"]);
    assert!(code(&output) == 0 && text(&output.stderr).contains("there is no role `sales`"), "{output:?}");
    gate.cli(&["role", "add", "sales"]);
    assert!(!text(&gate.command(&["check", "--no-import"]).stderr).contains("there is no role"));
}

#[test]
fn advice_comes_with_what_to_do_and_fails_only_who_asked_for_that() {
    let gate = installation();
    gate.token(&["--user", "ann", "--expires", "never"]);
    let told = gate.cli(&["advise"]);
    for words in ["only one administrator: root", "never expires: tok_", "  do   ", "  why  ", "pieces of advice"] {
        assert!(told.contains(words), "{words} in\n{told}");
    }
    assert!(told.contains("for other methods than GET the default, signed-in, decides here"), "{told}");
    assert_eq!(code(&gate.command(&["advise", "--strict"])), 1);
    let only = "[[deny]]\npath = \"/orders/*\"\nunless_methods = [\"GET\"]\n\n[[allow]]\npath = \"/admin/**\"";
    edit(&gate, "[[allow]]\npath = \"/admin/**\"", only);
    gate.cli(&["user", "grant", "carl", "administrator"]);
    let id = json(&gate, &["token", "list"])[0]["id"].as_str().unwrap().to_owned();
    gate.cli(&["token", "revoke", &id]);
    let advice = json(&gate, &["advise"]);
    assert_eq!(advice["advice"], serde_json::json!([]));
    assert_eq!(gate.cli(&["advise", "--strict"]), "nothing to advise\n");
    let toml = fs::read_to_string(gate.path("portcullis.toml")).unwrap();
    fs::write(gate.path("portcullis.toml"), toml.replace("127.0.0.1:0", "0.0.0.0:0")).unwrap();
    let advice = json(&gate, &["advise"]);
    assert!(advice["advice"][0]["what"].as_str().unwrap().contains("is for this machine alone"), "{advice}");
}
