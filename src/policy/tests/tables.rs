//! What the rules mean, as tables: a policy, requests, answers.

use std::time::Instant;

use super::{answer, application, asked, explain, naive, reference::Reference, target};
use crate::{
    model::{Method, MethodSet},
    policy::Question,
};

const ALL: MethodSet = MethodSet::ALL;

fn app(keys: &str, rules: &str) -> String {
    format!("[app]\nname = \"/notes\"\ndirectory = \"../notes\"\nmodule = \"app\"\n{keys}\n{rules}")
}

/// Both sorts of credentials and the anonymous principal.
const EVERY: &str = "methods = [\"unauthenticated\", \"password\", \"token\"]";
const SIGNED: &str = "methods = [\"password\", \"token\"]";

#[track_caller]
fn check(text: &str, system: MethodSet, table: &[(&str, &str)]) {
    let (app, reference) = (application(text), Reference::read(text));
    for (line, expected) in table {
        let asked = asked(line);
        assert_eq!(answer(&app, system, &asked), *expected, "{line}");
        let words: Vec<_> = system.iter().map(Method::word).collect();
        let slow = reference.answer(&words, &naive(&asked)).replace("40?", &expected[..3]);
        assert!(expected.starts_with(&slow), "{line}: the reference says {slow}");
    }
}

#[test]
fn the_most_specific_allow_decides_alone() {
    let rules = r#"
        [[allow]]
        path = "/**"
        who = "signed-in"
        [[allow]]
        path = "/orders/*"
        methods = ["GET"]
        who = ["role:sales", "user:ann"]
        [[allow]]
        path = "/orders/secret"
        who = "role:boss"
        [[allow]]
        path = "/*/secret/**"
        who = "role:star"
    "#;
    check(
        &app(SIGNED, rules),
        ALL,
        &[
            ("GET /notes/orders/7 as ann", "allowed by /orders/*"),
            ("GET /notes/orders/7 as zed+sales", "allowed by /orders/*"),
            ("GET /notes/orders/7 as zed", "403 not-allowed-by-rule /orders/*"),
            ("POST /notes/orders/7 as zed", "allowed by /**"),
            ("GET /notes/orders/secret as zed+sales", "403 not-allowed-by-rule /orders/secret"),
            ("GET /notes/orders/secret as zed+boss", "allowed by /orders/secret"),
            ("GET /notes/orders/secret/x as zed+star", "allowed by /*/secret/**"),
            ("GET /notes/orders/7/x as zed", "allowed by /**"),
            ("GET /notes/orders as zed", "allowed by /**"),
            ("GET /notes as zed", "allowed by /**"),
            ("GET /notes/orders/7", "401 credentials-required /orders/* password, token"),
            ("GET /notes/Orders/7 as zed", "allowed by /**"),
        ],
    );
}

#[test]
fn below_is_this_and_everything_below_and_never_a_longer_word() {
    let rules = "[[allow]]\npath = \"/admin/**\"\nwho = \"role:admin\"\n";
    check(
        &app(&format!("{EVERY}\ndefault = \"anyone\""), rules),
        ALL,
        &[
            ("GET /notes/admin", "401 credentials-required /admin/** password, token"),
            ("GET /notes/admin/", "401 credentials-required /admin/** password, token"),
            ("GET /notes/admin/x/y/", "401 credentials-required /admin/** password, token"),
            ("GET /notes/admin/x as ann+admin", "allowed by /admin/**"),
            ("GET /notes/administrator", "allowed by default"),
            ("GET /notes/admin.json", "allowed by default"),
            ("GET /notes/admin;x=1", "allowed by default"),
            ("GET /notes/admin../x", "allowed by default"),
            ("GET /notes/adm%69n/x", "401 credentials-required /admin/** password, token"),
        ],
    );
}

#[test]
fn a_trailing_slash_is_no_way_around_a_rule() {
    let rules =
        "[[allow]]\npath = \"/**\"\nwho = \"anyone\"\n[[deny]]\npath = \"/admin\"\n[[deny]]\npath = \"/files/*\"\n";
    check(
        &app(EVERY, rules),
        ALL,
        &[
            ("GET /notes/admin", "403 denied-by-rule /admin"),
            ("GET /notes/admin/", "403 denied-by-rule /admin"),
            ("GET /notes/admin/x", "allowed by /**"),
            ("GET /notes/files", "allowed by /**"),
            ("GET /notes/files/", "403 denied-by-rule /files/*"),
            ("GET /notes/files/x/", "403 denied-by-rule /files/*"),
            ("GET /notes/", "allowed by /**"),
        ],
    );
}

#[test]
fn a_deny_wins_wherever_it_stands_and_signing_in_is_offered_if_it_helps() {
    let rules = r#"
        [[deny]]
        path = "/admin/export/**"
        unless_who = "role:auditor"
        [[allow]]
        path = "/admin/**"
        who = "role:admin"
        auth = ["password"]
        [[allow]]
        path = "/admin/export/now"
        who = "anyone"
        [[deny]]
        path = "/never/**"
        [[deny]]
        path = "/by/token"
        auth = "token"
        [[deny]]
        path = "/by/anonymous"
        auth = "unauthenticated"
        [[deny]]
        path = "/from"
        from = "10.0.0.0/8"
        [[allow]]
        path = "/**"
        who = "anyone"
    "#;
    check(
        &app(EVERY, rules),
        ALL,
        &[
            ("GET /notes/admin/export/x as ann+admin", "403 denied-by-rule /admin/export/**"),
            ("GET /notes/admin/export/x as ann+admin+auditor", "allowed by /admin/**"),
            ("GET /notes/admin/export/x", "401 denied-by-rule /admin/export/** password"),
            ("GET /notes/admin/export/now", "401 denied-by-rule /admin/export/** password, token"),
            ("GET /notes/never/x", "403 denied-by-rule /never/**"),
            ("GET /notes/never as ann+admin", "403 denied-by-rule /never/**"),
            ("GET /notes/by/token as ann by token", "403 denied-by-rule /by/token"),
            ("GET /notes/by/token as ann", "allowed by /**"),
            ("GET /notes/by/anonymous", "401 denied-by-rule /by/anonymous password, token"),
            ("GET /notes/by/anonymous as ann", "allowed by /**"),
            ("GET /notes/from from 10.9.9.9", "403 denied-by-rule /from"),
            ("GET /notes/from from 11.0.0.1", "allowed by /**"),
        ],
    );
}

#[test]
fn no_password_is_asked_for_nothing() {
    let rules = r#"
        [[deny]]
        path = "/elsewhere"
        unless_who = "role:r"
        [[allow]]
        path = "/elsewhere"
        who = "anyone"
        from = "10.0.0.0/8"
        [[deny]]
        path = "/torn"
        auth = ["unauthenticated", "password"]
        [[deny]]
        path = "/torn"
        auth = ["unauthenticated", "token"]
        [[allow]]
        path = "/**"
        who = "anyone"
    "#;
    check(
        &app(EVERY, rules),
        ALL,
        &[
            ("GET /notes/elsewhere from 10.0.0.1", "401 denied-by-rule /elsewhere password, token"),
            ("GET /notes/elsewhere from 11.0.0.1", "403 denied-by-rule /elsewhere"),
            ("GET /notes/torn", "403 denied-by-rule /torn"),
            ("GET /notes/torn as ann", "403 denied-by-rule /torn"),
        ],
    );
}

#[test]
fn methods_are_system_and_application_and_rule_together() {
    let rules = r#"
        [[allow]]
        path = "/open"
        who = "anyone"
        auth = "unauthenticated"
        [[allow]]
        path = "/strong"
        who = "signed-in"
        auth = "password"
        [[allow]]
        path = "/**"
        who = "anyone"
    "#;
    let normal = crate::model::SecurityLevel::Normal.methods();
    let token = crate::model::SecurityLevel::LockedDown.methods();
    check(
        &app(EVERY, rules),
        normal,
        &[
            ("GET /notes/open", "403 method-not-permitted /open"),
            ("GET /notes/open as ann", "403 method-not-permitted /open"),
            ("GET /notes/strong", "401 credentials-required /strong password"),
            ("GET /notes/strong as ann by token", "403 method-not-allowed /strong"),
            ("GET /notes/strong as ann", "allowed by /strong"),
            ("GET /notes/x", "401 credentials-required /** password, token"),
            ("GET /notes/x as ann", "allowed by /**"),
        ],
    );
    check(
        &app(EVERY, rules),
        token,
        &[
            ("GET /notes/strong", "403 method-not-permitted /strong"),
            ("GET /notes/x", "401 credentials-required /** token"),
            ("GET /notes/x as ann", "403 method-not-allowed default"),
        ],
    );
    check(
        &app(EVERY, rules),
        ALL,
        &[("GET /notes/open", "allowed by /open"), ("GET /notes/open as ann", "403 method-not-allowed /open")],
    );
    check(
        &app("methods = \"unauthenticated\"", rules.replace("auth = \"password\"", "").as_str()),
        normal,
        &[
            ("GET /notes/x", "403 method-not-permitted default"),
            ("GET /notes/x as ann", "403 method-not-permitted default"),
        ],
    );
}

#[test]
fn a_token_is_good_where_it_says() {
    let rules = "[[allow]]\npath = \"/**\"\nwho = \"signed-in\"\n";
    check(
        &app(SIGNED, rules),
        ALL,
        &[
            ("GET /notes/x as ann by token only /notes,/other", "allowed by /**"),
            ("GET /notes/x as ann by token only /other", "403 token-not-for-application default"),
            ("GET /notes/x as service:bot by token", "allowed by /**"),
        ],
    );
}

#[test]
fn who_names_people_programs_roles_and_tokens() {
    let rules = r#"
        [[allow]]
        path = "/user"
        who = "user:ann"
        [[allow]]
        path = "/service"
        who = "service:bot"
        [[allow]]
        path = "/token"
        who = "token:tok_1"
        [[allow]]
        path = "/role"
        who = "role:reader"
        [[allow]]
        path = "/signed"
        who = "signed-in"
    "#;
    check(
        &app(EVERY, rules),
        ALL,
        &[
            ("GET /notes/user as ann", "allowed by /user"),
            ("GET /notes/user as ann by token", "allowed by /user"),
            ("GET /notes/user as service:ann by token", "403 not-allowed-by-rule /user"),
            ("GET /notes/service as service:bot by token", "allowed by /service"),
            ("GET /notes/service as bot", "403 not-allowed-by-rule /service"),
            ("GET /notes/service", "401 credentials-required /service token"),
            ("GET /notes/token as ann by token:tok_1", "allowed by /token"),
            ("GET /notes/token as ann by token:tok_2", "403 not-allowed-by-rule /token"),
            ("GET /notes/token as ann", "403 not-allowed-by-rule /token"),
            ("GET /notes/token", "401 credentials-required /token token"),
            ("GET /notes/role as ann+readers", "403 not-allowed-by-rule /role"),
            ("GET /notes/signed", "401 credentials-required /signed password, token"),
        ],
    );
    check(
        &app(&format!("{EVERY}\napp_roles = [\"reader\"]"), rules),
        ALL,
        &[("GET /notes/role", "allowed by /role"), ("GET /notes/role as ann", "allowed by /role")],
    );
}

#[test]
fn networks_are_compared_as_what_they_are() {
    let rules =
        "[[allow]]\npath = \"/**\"\nwho = \"anyone\"\nfrom = [\"10.0.0.0/8\", \"192.0.2.7\", \"2001:db8::/32\"]\n";
    check(
        &app(EVERY, rules),
        ALL,
        &[
            ("GET /notes/x from 10.1.2.3", "allowed by /**"),
            ("GET /notes/x from 192.0.2.7", "allowed by /**"),
            ("GET /notes/x from 2001:db8::9", "allowed by /**"),
            ("GET /notes/x from 192.0.2.8", "403 network-not-allowed /**"),
            ("GET /notes/x as ann from 11.0.0.1", "403 network-not-allowed /**"),
        ],
    );
    let app = application(&app(EVERY, rules));
    assert_eq!(answer(&app, ALL, &asked("GET /notes/x from ::ffff:10.1.2.3")), "allowed by /**");
}

#[test]
fn only_get_is_a_deny_of_all_but_get() {
    let rules = r#"
        [[allow]]
        path = "/reports/**"
        methods = ["GET"]
        who = "role:finance"

        [[deny]]
        path = "/reports/**"
        unless_methods = ["GET", "PROPFIND"]
    "#;
    check(
        &app(&format!("{SIGNED}\ndefault = \"signed-in\""), rules),
        ALL,
        &[
            ("GET /notes/reports/1 as ann+finance", "allowed by /reports/**"),
            ("HEAD /notes/reports/1 as ann+finance", "allowed by /reports/**"),
            ("OPTIONS /notes/reports/1 as ann+finance", "allowed by /reports/**"),
            ("PROPFIND /notes/reports/1 as ann", "allowed by default"),
            ("POST /notes/reports/1 as ann+finance", "403 denied-by-rule /reports/**"),
            ("BREW /notes/reports/1 as ann", "403 denied-by-rule /reports/**"),
            ("POST /notes/other as ann", "allowed by default"),
        ],
    );
}

#[test]
fn head_and_options_follow_get_unless_a_rule_names_them() {
    let rules = r#"
        [[allow]]
        path = "/a"
        methods = "GET"
        who = "role:r"
        [[allow]]
        path = "/b"
        methods = "GET"
        who = "role:r"
        [[allow]]
        path = "/b"
        methods = ["OPTIONS", "POST"]
        who = "anyone"
        [[deny]]
        path = "/c"
        methods = "GET"
        [[deny]]
        path = "/c"
        methods = "HEAD"
        unless_who = "role:r"
    "#;
    check(
        &app(&format!("{EVERY}\ndefault = \"anyone\""), rules),
        ALL,
        &[
            ("HEAD /notes/a", "401 credentials-required /a password, token"),
            ("OPTIONS /notes/a as ann+r", "allowed by /a"),
            ("POST /notes/a", "allowed by default"),
            ("get /notes/a", "allowed by default"),
            ("HEAD /notes/b as ann", "403 not-allowed-by-rule /b"),
            ("OPTIONS /notes/b", "allowed by /b"),
            ("HEAD /notes/c as ann+r", "403 denied-by-rule /c"),
            ("OPTIONS /notes/c", "403 denied-by-rule /c"),
            ("POST /notes/c", "allowed by default"),
        ],
    );
}

#[test]
fn the_default_decides_where_no_rule_does() {
    let line = "GET /notes/x";
    for (default, anonymous, ann, reader) in [
        ("deny", "403 denied-by-default default", "403 denied-by-default default", "403 denied-by-default default"),
        ("signed-in", "401 credentials-required default password, token", "allowed by default", "allowed by default"),
        ("anyone", "allowed by default", "allowed by default", "allowed by default"),
        (
            "role:reader",
            "401 credentials-required default password, token",
            "403 denied-by-default default",
            "allowed by default",
        ),
    ] {
        let text = app(&format!("{EVERY}\ndefault = \"{default}\""), "");
        let table =
            [(line.to_owned(), anonymous), (format!("{line} as ann"), ann), (format!("{line} as ann+reader"), reader)];
        check(&text, ALL, &table.each_ref().map(|(line, answer)| (line.as_str(), *answer)));
    }
    check(&app(EVERY, ""), ALL, &[(line, "403 denied-by-default default")]);
    check(
        &app("methods = \"unauthenticated\"\ndefault = \"signed-in\"", ""),
        ALL,
        &[(line, "403 denied-by-default default")],
    );
}

#[test]
fn a_foreign_path_gets_nothing() {
    let app = application(&app(&format!("{EVERY}\ndefault = \"anyone\""), ""));
    for path in ["/", "/note", "/notesx", "/x/notes"] {
        let asked = asked(&format!("GET {path}"));
        assert_eq!(answer_anywhere(&app, &asked), "no-application", "{path}");
    }
}

fn answer_anywhere(app: &std::sync::Arc<super::Application>, asked: &super::Asked) -> String {
    let q = Question { system: ALL, principal: &asked.principal, method: &asked.verb, from: asked.from };
    super::decide(app, target(&asked.path), &q)
        .map_or_else(|denial| denial.reason.to_string(), |_| "allowed".to_owned())
}

#[test]
fn an_explanation_says_what_every_rule_did_and_what_would_help() {
    let rules = r#"
[[allow]]
path = "/orders/*"
methods = ["GET"]
who = "role:sales"

[[allow]]
path = "/admin/**"
who = "role:administrator"
auth = "password"

[[allow]]
path = "/**"
who = "signed-in"

[[deny]]
path = "/admin/export/**"
unless_who = "role:auditor"
"#;
    let app = application(&app(SIGNED, rules));
    let explained = |line: &str| {
        let asked = asked(line);
        let q = Question { system: ALL, principal: &asked.principal, method: &asked.verb, from: asked.from };
        explain(&app, &target(&asked.path), &q)
    };
    let refused = explained("GET /notes/admin/users as ann+sales from 10.0.0.5");
    let expected = r"GET /notes/admin/users  as ann (password) from 10.0.0.5
application  /notes  policies/notes.toml
path         /admin/users
methods      password, token
roles        sales
x allow GET /orders/* who role:sales                       (policies/notes.toml:7)   path does not match
+ allow /admin/** who role:administrator by password       (policies/notes.toml:12)  the most specific: it decides
x allow /** who signed-in                                  (policies/notes.toml:17)  less specific than line 12
x deny /admin/export/** unless role:auditor                (policies/notes.toml:21)  path does not match
403 not-allowed-by-rule  decided by policies/notes.toml:12  allow /admin/** who role:administrator by password
would be allowed for: role:administrator, by password";
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeeze(&refused.to_string()), squeeze(expected), "{refused}");
    assert!(refused.to_string().lines().all(|line| line.trim_end() == line), "{refused}");
    let denied = explained("GET /notes/admin/export/x").to_string();
    assert!(denied.contains("401 denied-by-rule") && denied.contains("is asked to sign in by: password"), "{denied}");
    assert!(denied.contains("does not hold for: role:auditor"), "{denied}");
    let allowed = explained("GET /notes/x as ann").to_string();
    assert!(allowed.ends_with("allowed  decided by policies/notes.toml:17  allow /** who signed-in"), "{allowed}");
    let json = serde_json::to_value(&refused).unwrap();
    assert_eq!((json["status"].as_u64(), json["rules"].as_array().map(Vec::len)), (Some(403), Some(4)));
}

#[test]
fn a_disabled_application_is_explained_as_missing() {
    let app = application(&app(&format!("{EVERY}\nenabled = false\ndefault = \"anyone\""), ""));
    let asked = asked("GET /notes/x");
    let q = Question { system: ALL, principal: &asked.principal, method: &asked.verb, from: asked.from };
    let explained = explain(&app, &target(&asked.path), &q);
    assert_eq!((explained.status, explained.reason), (404, Some("application-disabled")), "{explained}");
}

/// A bound so wide that only a change of kind (a linear search, a clone of the policy) goes past it in a debug build.
#[test]
fn a_decision_costs_microseconds_with_a_thousand_rules() {
    let rule = |n: usize| format!("[[allow]]\npath = \"/area{n}/*/items/**\"\nwho = \"role:r{n}\"\n");
    let rules: String = (0..1000).map(rule).collect();
    let app = application(&app(SIGNED, &(rules + "[[deny]]\npath = \"/*/x/items/secret\"\n")));
    let asked = asked("GET /notes/area777/x/items/7 as ann+r1+r777");
    let q = Question { system: ALL, principal: &asked.principal, method: &asked.verb, from: asked.from };
    let targets: Vec<_> = (0..2000).map(|_| target(&asked.path)).collect();
    let start = Instant::now();
    let permits: Vec<_> = targets.into_iter().map(|target| super::decide(&app, target, &q)).collect();
    let each = start.elapsed() / 2000;
    assert!(permits.iter().all(Result::is_ok));
    println!("{each:?} a decision");
    assert!(each.as_micros() < 50, "{each:?}");
}
