//! Random policies and requests: the live decision, its explanation and the slow reference agree.

use proptest::prelude::*;

use super::{
    Asked, all, answer, asked, naive, read,
    reference::{
        Reference,
        generate::{line, policy, rule},
    },
};
use crate::{
    model::{Method, MethodSet},
    policy::Application,
};
use std::sync::Arc;

fn below(mount: &str, line: &str) -> Asked {
    let mut asked = asked(line);
    asked.from = asked.from.to_canonical();
    if mount != "/" {
        asked.path = if asked.path == "/" { mount.to_owned() } else { format!("{mount}{}", asked.path) };
    }
    asked
}

/// Everybody there could be, by one method, asking the same.
fn somebody_gets_in(app: &Arc<Application>, system: MethodSet, line: &str, by: Method) -> bool {
    let (head, from) = line.split_once(" as ").unwrap();
    let from = from.split_once(" from ").unwrap().1;
    let ids: &[&str] = if by == Method::Token { &["token", "token:tok_1"] } else { &["password"] };
    let users = ["ann", "zed", "service:bot"].into_iter().filter(|who| by == Method::Token || !who.contains(':'));
    let everybody = users.flat_map(|who| ["", "+r", "+s", "+r+s"].map(|roles| format!("{who}{roles}")));
    everybody
        .flat_map(|who| ids.iter().map(move |id| format!("{head} as {who} by {id} from {from}")))
        .any(|line| answer(app, system, &below(app.mount.as_str(), &line)).starts_with("allowed"))
}

fn agrees(live: &str, reference: &str) -> bool {
    let reference = reference.replace("40?", &live[..3]);
    if reference.contains(", would be ") {
        return live == reference;
    }
    live == reference || live.strip_prefix(&reference).is_some_and(|rest| rest.starts_with(' '))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn decide_explain_and_the_reference_agree(
        text in policy(),
        lines in prop::collection::vec(line(), 8),
        system in prop::sample::subsequence(Method::ALL.to_vec(), 0..=3),
    ) {
        let system: MethodSet = system.into_iter().collect();
        let reference = Reference::read(&text);
        let (apps, _) = match read(&[("p.toml", &text)], system) {
            Ok(loaded) => loaded,
            Err(problems) => {
                prop_assert!(reference.overlaps(), "refused for nothing: {}", all(&problems));
                return Ok(());
            }
        };
        prop_assert!(!reference.overlaps(), "two allows decide:\n{}", text);
        for line in &lines {
            let (app, asked) = (&apps[0], below(apps[0].mount.as_str(), line));
            let live = answer(app, system, &asked);
            let words: Vec<_> = system.iter().map(Method::word).collect();
            let slow = reference.answer(&words, &naive(&asked));
            prop_assert!(agrees(&live, &slow), "{}\nlive {}\nslow {}\n{}", line, live, slow, text);
            if live.contains("allowed by") || !line.contains(" as anonymous ") {
                prop_assert!(!live.starts_with("401"), "{} {}", line, live);
                continue;
            }
            // 401 is a promise that signing in can help, 403 that it cannot.
            for by in [Method::Password, Method::Token] {
                let (helps, offered) = (somebody_gets_in(app, system, line, by), live.starts_with("401") && live.contains(by.word()));
                prop_assert!(offered || !helps, "{line}: {live} does not offer {by}\n{text}");
                prop_assert!(helps || !offered || text.contains("[[deny]]") || text.contains("mfa = "), "{line}: {live} offers {by} for nothing\n{text}");
            }
        }
    }

    #[test]
    fn a_deny_never_allows(text in policy(), deny in rule("deny", &["password", "token"]), lines in prop::collection::vec(line(), 8)) {
        let more = format!("{text}{deny}");
        let (Ok((before, _)), Ok((after, _))) = (read(&[("p.toml", &text)], MethodSet::ALL), read(&[("p.toml", &more)], MethodSet::ALL))
        else { return Ok(()) };
        for line in &lines {
            let asked = below(before[0].mount.as_str(), line);
            let enforced = |app| answer(app, MethodSet::ALL, &asked).split(", would be ").next().unwrap().to_owned();
            let (before, after) = (enforced(&before[0]), enforced(&after[0]));
            prop_assert!(before == after || after.contains("denied-by-rule"), "{line}: {before} became {after}\n{more}");
        }
    }

    #[test]
    fn the_order_of_rules_decides_nothing(text in policy(), turn in 1usize..9, lines in prop::collection::vec(line(), 8)) {
        let mut parts: Vec<&str> = text.split("[[").collect();
        parts[1..].reverse();
        let count = parts.len() - 1;
        if count > 0 { parts[1..].rotate_left(turn % count); }
        let turned = parts.join("[[");
        let (Ok((first, _)), Ok((second, _))) = (read(&[("p.toml", &text)], MethodSet::ALL), read(&[("p.toml", &turned)], MethodSet::ALL))
        else { return Ok(()) };
        for line in &lines {
            let asked = below(first[0].mount.as_str(), line);
            // When several denies hold, which is named follows the file; that they hold does not.
            let verdict = |app| {
                let answer = answer(app, MethodSet::ALL, &asked);
                let enforced = answer.split(", would be ").next().unwrap();
                if enforced.contains("denied-by-rule") { enforced[..3].to_owned() } else { enforced.to_owned() }
            };
            prop_assert_eq!(verdict(&first[0]), verdict(&second[0]));
        }
    }
}
