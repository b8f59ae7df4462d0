//! Rules of a policy's short form: parsing arbitrary text ends in a rule or an error; a rule prints as a text that is the
//! same rule; its patterns match what they say literally.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_spec::{Glob, PolicyRule, RuleArguments};

fuzz_target!(|text: &str| {
    let Ok(rule) = text.parse::<PolicyRule>() else { return };
    let printed = rule.to_string();
    // Blanks that printing adds may take it over the length that is read.
    if printed.len() > 1024 {
        return;
    }
    let again: PolicyRule = printed.parse().unwrap();
    assert_eq!(again, rule, "{printed}");
    let check = |glob: &Glob| {
        if let Some(literal) = glob.literal() {
            assert!(glob.is_match(&literal));
        }
    };
    check(rule.tool());
    match rule.arguments() {
        RuleArguments::Any => {}
        RuleArguments::Primary(glob) => check(glob),
        RuleArguments::Named(named) => named.iter().for_each(|(_, glob)| check(glob)),
    }
});
