//! Tables, one per attack class, and properties over generated paths.

use proptest::prelude::*;

use super::*;

fn parse(uri: &str) -> Result<Target, BadTarget> {
    let uri = Uri::try_from(uri).map_err(|_| BadTarget::Form("not a URI"))?;
    Target::parse(uri, Version::HTTP_11, Some(b"localhost"))
}

fn path(uri: &str) -> Result<String, BadTarget> {
    parse(uri).map(|target| target.path().to_string())
}

#[track_caller]
fn accepted(table: &[(&str, &str)]) {
    for (raw, judged) in table {
        assert_eq!(path(raw).as_deref(), Ok(*judged), "{raw}");
    }
}

#[track_caller]
fn refused(table: &[&str]) {
    for raw in table {
        assert!(path(raw).is_err(), "{raw} was read as {:?}", path(raw));
    }
}

#[test]
fn ordinary_paths_are_decoded_once() {
    accepted(&[
        ("/", "/"),
        ("/notes", "/notes"),
        ("/notes/", "/notes/"),
        ("/notes/caf%C3%A9", "/notes/café"),
        ("/notes/café", "/notes/café"),
        ("/a%20b/c+d", "/a b/c+d"),
        ("/ap%69", "/api"),
        ("/100%25", "/100%"),
        ("/100%25/a", "/100%/a"),
        ("/%25z1", "/%z1"),
        ("/%7Bx%7D", "/{x}"),
        ("/%E2%82%AC", "/€"),
    ]);
}

#[test]
fn a_query_never_widens_a_path() {
    let target = parse("/api/private/x?path=/status&a=..%2f#").unwrap();
    assert_eq!(target.path().as_str(), "/api/private/x");
    assert_eq!(target.query(), "path=/status&a=..%2f");
    assert_eq!(parse("/a?b=%2f").unwrap().uri(), "/a?b=%2f");
    assert_eq!(parse("/a").unwrap().query(), "");
    assert_eq!(parse("/a?").unwrap().query(), "");
    accepted(&[("/a%3Fb", "/a?b")]);
}

#[test]
fn an_encoded_hash_is_a_byte_of_its_segment() {
    accepted(&[("/foo/secret%23/bar", "/foo/secret#/bar")]);
}

#[test]
fn dot_segments_are_refused_in_every_spelling() {
    refused(&[
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/..%2fadmin",
        "/public/.%2e/admin",
        "/public/%2E./admin",
        "/admin/.",
        "/admin/..",
        "/./admin",
        "/..",
        "/.",
        "/../",
        "/./",
        "/admin/%2e/",
    ]);
    accepted(&[("/...", "/..."), ("/.well-known/x", "/.well-known/x"), ("/a..b", "/a..b"), ("/admin./x", "/admin./x")]);
}

#[test]
fn slashes_and_backslashes_have_one_spelling() {
    refused(&[
        "//admin",
        "//",
        "///",
        "/admin//x",
        "/admin//",
        "/admin%2fx",
        "/admin%2Fx",
        "/%2f",
        "/admin\\x",
        "/admin%5cx",
        "/admin%5Cx",
        "/\\admin",
        "/%5c%5cadmin",
    ]);
}

#[test]
fn control_bytes_are_refused() {
    for byte in (0..=0x1f).chain([0x7f]) {
        refused(&[&format!("/admin/%{byte:02x}"), &format!("/%{byte:02X}admin"), &format!("/a%{byte:02x}b/c")]);
    }
    refused(&["/admin/%0a", "/a%C2%85b", "/a%C2%9Bb"]);
}

#[test]
fn path_parameters_are_literal_and_double_encoding_is_refused() {
    accepted(&[("/admin;x=1", "/admin;x=1"), ("/public/..;/admin", "/public/..;/admin"), ("/;/a", "/;/a")]);
    refused(&[
        "/%2561dmin",
        "/%252e",
        "/%252e%252e/admin",
        "/a%252fb",
        "/%25%36%31dmin",
        "/%%361dmin",
        "/%25%2561",
        "/%2525",
    ]);
}

#[test]
fn malformed_escapes_are_refused() {
    refused(&["/%", "/%a", "/%zz", "/a%2", "/a%g0", "/a%0g", "/%u002e", "/% 1", "/a%+1", "/%-1"]);
}

#[test]
fn a_mount_owns_whole_segments() {
    let split = |mount: &str, raw: &str| {
        let target = parse(raw).unwrap();
        Mount::parse(mount).unwrap().split(target.path()).map(|(script, info)| (script.to_owned(), info.to_owned()))
    };
    let is = |script: &str, info: &str| Some((script.to_owned(), info.to_owned()));
    assert_eq!(split("/api", "/api"), is("/api", ""));
    assert_eq!(split("/api", "/api/"), is("/api", "/"));
    assert_eq!(split("/api", "/ap%69/x"), is("/api", "/x"));
    assert_eq!(split("/a/b", "/a/b/c"), is("/a/b", "/c"));
    assert_eq!(split("/", "/"), is("", "/"));
    assert_eq!(split("/", "/x/y/"), is("", "/x/y/"));
    for foreign in ["/apix", "/api../foo", "/api.json", "/API", "/Api/x", "/ap", "/", "/api;x", "/x/api"] {
        assert_eq!(split("/api", foreign), None, "{foreign}");
    }
    refused(&["/ap%69/a%2Fb", "/api/../foo"]);
}

#[test]
fn a_mount_is_written_decoded_and_without_a_trailing_slash() {
    for good in ["/", "/notes", "/team/notes", "/café", "/a b"] {
        assert_eq!(Mount::parse(good).unwrap().as_str(), good);
    }
    for bad in
        ["", "notes", "/notes/", "//", "/a//b", "/a/../b", "/.", "/a%20b", "/a?b", "/a#b", "/a\\b", "/*", "/**", "/a\n"]
    {
        assert!(Mount::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn case_and_unicode_forms_are_kept_and_bad_utf8_is_refused() {
    accepted(&[
        ("/Admin", "/Admin"),
        ("/%41dmin", "/Admin"),
        ("/%EF%BC%8E%EF%BC%8E/x", "/．．/x"),
        ("/%EF%BC%8Fadmin", "/／admin"),
        ("/caf%65%CC%81", "/cafe\u{301}"),
    ]);
    refused(&["/%c0%ae%c0%ae/x", "/%c0%af", "/%ff", "/a%80", "/%ed%a0%80", "/%f4%90%80%80", "/%c3", "/%e0%80%af"]);
}

#[test]
fn only_origin_and_absolute_forms_name_something() {
    for form in ["*", "localhost:443", "localhost", "http://localhost?x=1", "ftp://localhost/x", "admin", "a/b"] {
        assert!(matches!(parse(form), Err(BadTarget::Form(_))), "{form}: {:?}", parse(form));
    }
    accepted(&[("https://localhost/a", "/a"), ("http://LOCALHOST/a", "/a"), ("https://localhost", "/")]);
    refused(&["https://localhost//a", "https://localhost/../a"]);
}

#[test]
fn the_authority_wins_and_the_host_field_agrees_or_it_is_refused() {
    let host = |uri: &str, version, field: Option<&str>| {
        Target::parse(uri.parse().unwrap(), version, field.map(str::as_bytes)).map(|target| target.host().to_string())
    };
    let (old, one, two) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
    assert_eq!(host("/", one, Some("Example.COM.:8443")), Ok("example.com:8443".into()));
    assert_eq!(host("https://a.example/", one, Some("A.example:443")), Ok("a.example".into()));
    assert_eq!(host("https://a.example:443/", two, Some("a.example")), Ok("a.example:443".into()));
    assert_eq!(host("https://a.example/", two, None), Ok("a.example".into()));
    assert_eq!(host("/", two, Some("a.example")), Ok("a.example".into()));
    assert_eq!(host("/", old, None), Ok(String::new()));
    for (uri, version, field) in [
        ("/", one, None),
        ("/", two, None),
        ("/", old, Some("")),
        ("/", one, Some("")),
        ("https://a.example/", one, Some("b.example")),
        ("https://a.example/", two, Some("b.example")),
        ("https://a.example/", two, Some("a.example:444")),
        ("https://a.example:80/", one, Some("a.example")),
        ("https://ann@a.example/", one, Some("a.example")),
        ("https://ann@a.example/", two, None),
        ("https://a.example/", one, Some("ann@a.example")),
    ] {
        assert!(matches!(host(uri, version, field), Err(BadTarget::Host(_))), "{uri} {field:?}");
    }
}

#[test]
fn hosts_are_strict() {
    for (text, shown) in [
        ("localhost", "localhost"),
        ("LocalHost.", "localhost"),
        ("a_b-c.example:1", "a_b-c.example:1"),
        ("127.0.0.1:65535", "127.0.0.1:65535"),
        ("[::1]", "[::1]"),
        ("[0:0::1]:8443", "[::1]:8443"),
        ("[2001:DB8::A]", "[2001:db8::a]"),
        ("1and1.example", "1and1.example"),
    ] {
        assert_eq!(Host::parse(text.as_bytes()).unwrap().to_string(), shown);
    }
    let long = "a".repeat(64);
    for bad in [
        "",
        ".",
        "a..b",
        ".a",
        "a..",
        "a:",
        "a:65536",
        "a:+1",
        "a:-1",
        "a:1:2",
        "a:000443",
        "ann@a",
        "a b",
        "a/b",
        "a,b",
        "a%41",
        "é.example",
        "[::1",
        "::1",
        "[::1]x",
        "[fe80::1%25eth0]",
        "[127.0.0.1]",
        "[]",
        "1.2.3",
        "0127.0.0.1",
        "1.2.3.4.",
        "256.1.1.1",
        "a\0",
        "a#b",
        "a?b",
        &long,
    ] {
        assert!(Host::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
    assert!(Host::parse(b"\xff").is_err());
}

/// The dullest decoder possible, to hold the real one against.
fn decode(raw: &str) -> Vec<u8> {
    let (raw, mut out, mut at) = (raw.as_bytes(), Vec::new(), 0);
    while at < raw.len() {
        if raw[at] == b'%' {
            out.push(u8::from_str_radix(str::from_utf8(&raw[at + 1..at + 3]).unwrap(), 16).unwrap());
            at += 3;
        } else {
            out.push(raw[at]);
            at += 1;
        }
    }
    out
}

fn encode(path: &str) -> String {
    path.bytes()
        .map(|byte| {
            if byte == b'/' || byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Pieces that have broken parsers, strung together.
fn raw_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9;=&+,:@!~*._-]{1,4}",
        2 => Just("/".to_owned()),
        1 => "%[0-9a-fA-F]{2}",
        1 => "%25[0-9a-f]{0,2}",
        1 => prop::sample::select(vec![
            "//", "/.", "/..", "/./", "/../", ";", "\\", "%2f", "%5c", "%00", "%0a", "%2e", "%2e%2e", "..;", "%c0%ae",
            "%", "%zz", "%7f", "é", "%C3%A9", "．", "admin", "/admin", "notes",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_judged_is_what_runs(raw in raw_path(), mount in prop::sample::select(vec!["/", "/notes", "/a"])) {
        if let Ok(target) = parse(&raw) {
            let path = target.path();
            prop_assert_eq!(path.as_bytes(), &decode(&raw)[..]);
            if let Some((script_name, path_info)) = Mount::parse(mount).unwrap().split(path) {
                prop_assert_eq!(format!("{script_name}{path_info}"), path.as_str());
                prop_assert!(path_info.is_empty() || path_info.starts_with('/'));
            }
        }
    }

    #[test]
    fn an_accepted_path_is_clean_and_reading_it_again_changes_nothing(raw in raw_path()) {
        if let Ok(target) = parse(&raw) {
            let path = target.path().as_str();
            prop_assert!(path.starts_with('/') && !path.contains("//") && !path.contains('\\'));
            prop_assert!(!path.split('/').any(|segment| segment == "." || segment == ".."));
            prop_assert!(!path.chars().any(char::is_control));
            prop_assert_eq!(self::path(&encode(path)), Ok(path.to_owned()));
            let again = path.as_bytes().windows(3).any(|w| w[0] == b'%' && w[1].is_ascii_hexdigit() && w[2].is_ascii_hexdigit());
            prop_assert!(!again, "{path} can be decoded again");
        }
    }

    #[test]
    fn every_encoding_of_a_plain_path_is_that_path(path in "(/[a-z]{1,6}){1,4}", choice in any::<u64>()) {
        let raw: String = path.char_indices().map(|(i, c)| {
            if c != '/' && choice >> (i % 64) & 1 == 1 { format!("%{:02x}", c as u32) } else { c.to_string() }
        }).collect();
        prop_assert_eq!(self::path(&raw), Ok(path));
    }

    #[test]
    fn any_bytes_as_a_host_are_refused_or_have_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
        if let Ok(host) = Host::parse(&bytes) {
            prop_assert_eq!(Host::parse(host.to_string().as_bytes()), Ok(host));
        }
    }

    #[test]
    fn no_uri_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(uri) = Uri::from_maybe_shared(bytes) {
            drop(Target::parse(uri, Version::HTTP_11, Some(b"localhost")));
        }
    }
}
