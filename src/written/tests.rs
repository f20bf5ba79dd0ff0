//! What a stranger sees, and that nothing stops at the first mistake.

use std::time::Duration;

use super::*;

fn read<T>(text: &str, read: impl FnOnce(&Table<'_>) -> Option<T>) -> (Option<T>, Vec<Problem>) {
    File::new("policies/notes.toml", text).read(read)
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn every_mistake_is_reported_in_the_order_of_the_text() {
    let text = "[app]\nnaem = \"x\"\nworkers = \"2\"\nenabled = 1\n\n[[allow]]\npath = 3\nextra = 1\n";
    let (_, problems) = read(text, |root| {
        let app = root.table("app");
        app.value("workers").and_then(|value| value.whole(1..=9));
        app.value("enabled").and_then(|value| value.boolean());
        app.required("name", "the mount, such as \"/notes\"");
        app.required("directory", "where the application lies");
        for allow in root.tables("allow") {
            allow.value("path").and_then(|value| value.string().map(str::to_owned));
        }
        Some(())
    });
    assert_eq!(
        lines(&problems),
        [
            "policies/notes.toml:1:1: [app] has no `directory` (where the application lies)",
            "policies/notes.toml:2:1: unknown key `naem` in [app] (did you mean `name`?)",
            "policies/notes.toml:3:11: `workers` has to be a whole number, not a string (write it without quotes)",
            "policies/notes.toml:4:11: `enabled` has to be true or false, not a whole number (write it without quotes)",
            "policies/notes.toml:7:8: `path` has to be a string, not a whole number (write it in quotes)",
            "policies/notes.toml:8:1: unknown key `extra` in [allow] (known here: path)",
        ]
    );
}

#[test]
fn a_problem_is_rendered_with_its_line() {
    let (_, problems) = read("a = 1\n\tmetods = [\"é\"] # x\n", |root| {
        root.value("a");
        root.value("methods");
        Some(())
    });
    assert_eq!(
        render(&problems, false),
        "error: unknown key `metods`\n  --> policies/notes.toml:2:2\n   |\n 2 |  metods = [\"é\"] # x\n   |  ^^^^^^\n   = help: did you mean `methods`?\n\n"
    );
    assert!(render(&problems, true).contains("\x1b[1;31merror\x1b[0m"));
}

#[test]
fn several_problems_are_counted() {
    let mut problems = vec![Problem::file("a.toml", "cannot be read: no such file")];
    assert_eq!(render(&problems, false), "error: cannot be read: no such file\n --> a.toml\n\n");
    problems.push(Problem { severity: Severity::Warning, ..Problem::file("b.toml", "is odd") });
    assert!(render(&problems, false).ends_with("1 error, 1 warning\n"));
    assert_eq!(render(&[], true), "");
}

#[test]
fn syntax_errors_say_where() {
    let cases =
        [("a = ", 1, 5), ("a = 1\nb = x\n", 2, 5), ("a = 1\na = 2\n", 2, 1), ("[a\n", 1, 3), ("a = \"x\ny\"", 1, 7)];
    for (text, line, column) in cases {
        let (made, problems) = read(text, |_| Some(()));
        assert!(made.is_none() && problems.iter().all(Problem::is_error), "{text:?}");
        assert_eq!((problems[0].line, problems[0].column), (line, column), "{}", render(&problems, false));
    }
}

#[test]
fn nothing_in_a_file_steers_the_terminal() {
    let (_, problems) = read("\"a\\u001b[31m\\u202ex\" = 1 # \u{202e}\n", |_| Some(()));
    let text = render(&problems, false) + &problems[0].to_string();
    assert!(text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{text:?}");
}

#[test]
fn long_lines_are_cut_around_the_mistake() {
    let text = format!("{} = 1\nb = [{} 7]\n", "a".repeat(300), "1, ".repeat(300));
    let (_, problems) = read(&text, |root| {
        root.entries();
        root.value("b").map(|value| value.items().last().map(|item| item.string().is_some()));
        Some(())
    });
    assert!(render(&problems, false).lines().all(|line| line.chars().count() < 140), "{}", render(&problems, false));
}

#[test]
fn durations_and_sizes_have_units_and_limits() {
    let long = Duration::ZERO..=Duration::from_secs(100 * 86_400);
    let duration = |text: &str| read(&format!("a = {text}"), |root| root.value("a")?.duration(long.clone()));
    let size = |text: &str| read(&format!("a = {text}"), |root| root.value("a")?.size(1..=1 << 40));
    for (text, seconds) in [("30", 30), ("\"30s\"", 30), ("\"5m\"", 300), ("\"2h\"", 7200), ("\"90d\"", 7_776_000)] {
        assert_eq!(duration(text), (Some(Duration::from_secs(seconds)), vec![]), "{text}");
    }
    assert_eq!(duration("\"500ms\"").0, Some(Duration::from_millis(500)));
    for (text, bytes) in [("10", 10), ("\"64KiB\"", 65_536), ("\"100MiB\"", 104_857_600), ("0x10", 16), ("1_000", 1000)]
    {
        assert_eq!(size(text), (Some(bytes), vec![]), "{text}");
    }
    for bad in [
        "\"\"",
        "\"s\"",
        "\"5\"",
        "\"-5s\"",
        "\"5 weeks\"",
        "1.5",
        "-1",
        "true",
        "\"101d\"",
        "\"99999999999999999999d\"",
    ] {
        let (value, problems) = duration(bad);
        assert!(value.is_none() && problems.len() == 1, "{bad}: {}", render(&problems, false));
    }
    for bad in ["\"64KB\"", "0", "\"9999999999GiB\"", "-1", "\"MiB\"", "\"2TiB\""] {
        let (value, problems) = size(bad);
        assert!(value.is_none() && problems.len() == 1, "{bad}: {}", render(&problems, false));
    }
    assert_eq!(lines(&size("0").1), ["policies/notes.toml:1:5: `a` is 0B (it has to be from 1B to 1024GiB)"]);
}

#[test]
fn a_word_of_a_closed_list_is_suggested() {
    let (_, problems) = read("a = \"lockd-down\"\nb = \"zzz\"", |root| {
        for key in ["a", "b"] {
            root.value(key).and_then(|value| value.word("a level", &[("normal", 1), ("locked-down", 2)]));
        }
        Some(())
    });
    assert_eq!(
        lines(&problems),
        [
            "policies/notes.toml:1:5: `lockd-down` is not a level (did you mean `locked-down`?)",
            "policies/notes.toml:2:5: `zzz` is not a level (one of: normal, locked-down)"
        ]
    );
}

#[test]
fn a_byte_order_mark_moves_nothing() {
    let (_, problems) = read("\u{feff}a = 1\nb = 1", |root| root.value("a")?.whole(1..=1));
    assert_eq!(lines(&problems), ["policies/notes.toml:2:1: unknown key `b` (did you mean `a`?)"]);
}
