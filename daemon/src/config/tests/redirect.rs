//! Who goes to another gateway.

use std::time::Duration;

use ike::{peer::Redirection, wire::redirect::GatewayId};

use super::{SMALL, load, problems};

#[test]
fn who_is_sent_where_is_chosen_and_voids_no_ticket() {
    let plain = load(&SMALL.replace("{}", ""));
    assert_eq!(plain.redirect.to, None);
    assert_eq!(plain.redirect.patience, Duration::from_mins(1));
    let one = &plain.connections[0];
    assert_eq!(one.redirect, Redirection::Follow);
    assert_eq!(one.redirect_to, None);
    let settings = "[redirect]\nto = \"gw2.example\"\npatience = \"5m\"\n";
    let of_connection = "redirect = \"ignore\"\nredirect_to = \"2001:db8::2\"";
    let config = load(&(settings.to_owned() + &SMALL.replace("{}", of_connection)));
    assert_eq!(config.redirect.to, GatewayId::from_text("gw2.example"));
    assert_eq!(config.redirect.patience, Duration::from_mins(5));
    let other = &config.connections[0];
    assert_eq!(other.redirect, Redirection::Ignore);
    assert_eq!(other.redirect_to, GatewayId::from_text("2001:db8::2"));
    assert_eq!(other.digest, one.digest);
}

#[test]
fn what_is_no_gateway_is_refused() {
    for (text, problem) in [
        (
            "[redirect]\nto = \"224.0.0.1\"",
            "rekindle.toml:2: redirect.to: \"224.0.0.1\" is no gateway's address or name; write \
             198.51.100.2 or gw2.example",
        ),
        (
            "[redirect]\npatience = \"1s\"",
            "rekindle.toml:2: redirect.patience: must be from 5s to 1d",
        ),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|one| one.contains(problem)), "{found:?}");
    }
    let found = problems(&SMALL.replace("{}", "redirect = \"folow\""));
    let problem = "is none of follow, ignore; did you mean follow?";
    assert!(found.iter().any(|one| one.contains(problem)), "{found:?}");
}
