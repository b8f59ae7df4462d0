use rune_tools::{EgressError, EgressException, EgressPolicy};

fn check(policy: &EgressPolicy, url: &str) -> Result<(), EgressError> {
    policy.check_url(&url::Url::parse(url).unwrap())
}

#[test]
fn refuses_every_form_of_an_address_that_is_not_public() {
    let policy = EgressPolicy::default();
    let hosts = [
        "127.0.0.1",
        "127.1",
        "127.255.255.254",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "012.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "100.100.100.200",
        "169.254.169.254",
        "169.254.1.1",
        "2852039166",
        "0xa9fea9fe",
        "168.63.129.16",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "192.168.257",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "１２７.0.0.1",
        "127。0。0。1",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::8.8.8.8]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:169.254.169.254]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::8.8.8.8]",
        "[100::1]",
        "[2001::1]",
        "[2001:0:7f00:1::]",
        "[2001:20::1]",
        "[2001:db8::1]",
        "[2002:7f00:1::]",
        "[2002:a00:1::1]",
        "[3fff::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[febf::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[4000::1]",
        "[5f00::1]",
        "[::ffff:0:127.0.0.1]",
    ];
    for host in hosts {
        for scheme in ["http", "https"] {
            let result = check(&policy, &format!("{scheme}://{host}/x"));
            assert!(
                matches!(result, Err(EgressError::Address { .. })),
                "{host}: {result:?}"
            );
        }
    }
}

#[test]
fn allows_public_addresses_and_names() {
    let policy = EgressPolicy::default();
    for host in [
        "example.com",
        "8.8.8.8",
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "198.17.0.1",
        "198.20.0.1",
        "223.255.255.255",
        "9.255.255.255",
        "11.0.0.1",
        "[2606:4700:4700::1111]",
        "[2a00:1450::1]",
        "[::ffff:8.8.8.8]",
        "[64:ff9b::8.8.8.8]",
        "[2001:200::1]",
    ] {
        assert_eq!(
            check(&policy, &format!("https://{host}/")),
            Ok(()),
            "{host}"
        );
    }
}

#[test]
fn refuses_other_schemes_credentials_and_ports() {
    let mut policy = EgressPolicy::default();
    for url in [
        "ftp://example.com/",
        "file:///etc/passwd",
        "data:text/plain,x",
        "gopher://x/",
    ] {
        assert!(
            matches!(check(&policy, url), Err(EgressError::Scheme(_))),
            "{url}"
        );
    }
    for url in [
        "http://user@example.com/",
        "http://:pass@example.com/",
        "http://a:b@8.8.8.8/",
    ] {
        assert_eq!(check(&policy, url), Err(EgressError::Credentials));
    }
    assert_eq!(
        check(&policy, "http://example.com:0/"),
        Err(EgressError::Port(0))
    );
    assert_eq!(check(&policy, "http://example.com:22/"), Ok(()));
    policy.ports = vec![80, 443];
    assert_eq!(
        check(&policy, "http://example.com:22/"),
        Err(EgressError::Port(22))
    );
    assert_eq!(check(&policy, "https://example.com/"), Ok(()));
}

#[test]
fn one_address_that_is_not_public_refuses_the_name() {
    let policy = EgressPolicy::default();
    let resolved = |addresses: &[&str]| {
        policy.check_resolved(
            "rebind.example",
            addresses.iter().map(|a| a.parse().unwrap()),
        )
    };
    assert_eq!(resolved(&["8.8.8.8", "2606:4700::1"]), Ok(()));
    assert!(matches!(
        resolved(&["8.8.8.8", "10.0.0.1"]),
        Err(EgressError::Address { .. })
    ));
    assert!(matches!(
        resolved(&["::ffff:127.0.0.1"]),
        Err(EgressError::Address { .. })
    ));
    assert!(matches!(resolved(&[]), Err(EgressError::NoAddress(_))));
}

#[test]
fn an_operator_opens_exactly_what_is_named() {
    let allow = ["10.1.0.0/16", "127.0.0.1", "Internal.Example.", "fd00::/8"];
    let policy = EgressPolicy {
        allow_private: allow.iter().map(|text| text.parse().unwrap()).collect(),
        ports: Vec::new(),
    };
    for host in ["10.1.2.3", "127.0.0.1", "[::ffff:127.0.0.1]", "[fd12::1]"] {
        assert_eq!(check(&policy, &format!("http://{host}/")), Ok(()), "{host}");
    }
    for host in ["10.2.0.1", "127.0.0.2", "[fe80::1]", "169.254.169.254"] {
        assert!(
            check(&policy, &format!("http://{host}/")).is_err(),
            "{host}"
        );
    }
    let private = ["192.168.7.7".parse().unwrap()];
    assert_eq!(policy.check_resolved("internal.example", private), Ok(()));
    assert_eq!(policy.check_resolved("internal.example.", private), Ok(()));
    assert!(
        policy
            .check_resolved("x.internal.example", private)
            .is_err()
    );
    // A name opens nothing of the machine's own link, an address does.
    let link = ["169.254.169.254".parse().unwrap()];
    assert!(policy.check_resolved("internal.example", link).is_err());
    let mut policy = policy;
    policy.allow_private.push("169.254.0.0/16".parse().unwrap());
    assert_eq!(policy.check_resolved("internal.example", link), Ok(()));
    for text in ["", "10.0.0.0/33", "a b"] {
        assert!(text.parse::<EgressException>().is_err(), "{text}");
    }
}

#[test]
fn a_url_of_the_operator_opens_its_host_and_never_the_link() {
    let opened = |url: &str| check(&EgressPolicy::default().opened_for(url), url);
    for url in [
        "http://127.0.0.1:8080/",
        "http://10.0.0.1/",
        "http://[::1]/",
    ] {
        assert_eq!(opened(url), Ok(()), "{url}");
    }
    for url in ["http://169.254.169.254/", "http://[fe80::1]/"] {
        assert!(opened(url).is_err(), "{url}");
    }
    let other = EgressPolicy::default().opened_for("http://127.0.0.1/");
    assert!(check(&other, "http://127.0.0.2/").is_err());
}
