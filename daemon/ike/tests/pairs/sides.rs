//! The connection between the two cores, as either end is configured.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ike::{
    Way,
    crypto::{Encryption, Group, Prf, RsaPadding, Secret},
    kernel::{Carriage, EspCipher},
    peer::{
        Child, Compat, Connection, Credential, LocalAuth, Proof, Redirection, RemoteAuth, Resume,
        Start, Suspend, Unique,
    },
    sa::proposal::{EspProposal, IkeSuite},
    wire::{id::Identity, redirect::GatewayId, ts::TrafficSelector},
};

use crate::bed::{CLIENT, GATEWAY, SECOND};

pub(crate) fn suite(encryption: Encryption, prf: Prf, group: Group) -> IkeSuite {
    IkeSuite {
        encryption,
        prf,
        group,
    }
}

pub(crate) fn client_side() -> Vec<Connection> {
    vec![side(
        "home",
        CLIENT,
        Some(GATEWAY),
        "client.example",
        "gw.example",
        true,
    )]
}

pub(crate) fn gateway_side() -> Vec<Connection> {
    vec![side(
        "rw",
        GATEWAY,
        None,
        "gw.example",
        "client.example",
        false,
    )]
}

/// One end of the connection between the two.
pub(crate) fn side(
    name: &str,
    local: &str,
    remote: Option<&str>,
    id: &str,
    peer: &str,
    is_client: bool,
) -> Connection {
    let net = |text| vec![TrafficSelector::from_text(text).expect("network")];
    let (inside, outside) = (net("10.2.0.0/24"), net("10.1.0.0/24"));
    let (local_ts, remote_ts) = if is_client {
        (inside, outside)
    } else {
        (outside, inside)
    };
    Connection {
        name: name.into(),
        local_addr: Some(local.parse().expect("address")),
        more_addrs: Vec::new(),
        remote_addr: remote.map(|remote| remote.parse().expect("address")),
        remote_hosts: Vec::new(),
        remote_port: 500,
        local: LocalAuth {
            id: Identity::from_text(id).expect("identity"),
            credential: Credential::PreShared(Secret::from(&b"correct horse battery"[..])),
            rsa_padding: RsaPadding::default(),
        },
        remote: RemoteAuth {
            id: Identity::from_text(peer),
            pattern: None,
            proof: Proof::PreShared(Secret::from(&b"correct horse battery"[..])),
        },
        ike_suites: vec![
            suite(Encryption::AesGcm256, Prf::HmacSha256, Group::X25519),
            suite(Encryption::ChaCha20Poly1305, Prf::HmacSha512, Group::P256),
        ],
        children: vec![Child {
            name: "net".into(),
            start: Start::Up,
            local_ts,
            local_dynamic: false,
            remote_ts,
            remote_dynamic: false,
            carriage: Carriage::default(),
            proposals: vec![EspProposal::of(&[
                EspCipher::AesGcm256,
                EspCipher::AesGcm128,
            ])],
            lifetime: Duration::from_hours(1),
            rekey: Duration::from_mins(54),
        }],
        fragment_size: Some(1280),
        ike_lifetime: Duration::from_hours(4),
        rekey: Duration::ZERO,
        liveness: Duration::from_secs(30),
        reauth: None,
        pools: Vec::new(),
        vips: Vec::new(),
        unique: Unique::Replace,
        leases_per_identity: Connection::LEASES_PER_IDENTITY,
        childless: false,
        encap: false,
        redirect: Redirection::Follow,
        redirect_to: None,
        compat: Compat::Rfc,
        mobike: true,
        resume: Resume {
            enabled: true,
            suspend: Suspend::Memory,
            by_reference: false,
            ticket_lifetime: Duration::from_hours(1),
        },
        digest: [if is_client { 1 } else { 2 }; 32],
    }
}

/// What a resolver and a routing table would say to the client.
pub(crate) fn find(gateway: &GatewayId, from: IpAddr) -> Result<Vec<Way>, String> {
    let gateway = match gateway {
        GatewayId::Address(address) => *address,
        GatewayId::Name(name) => match &**name {
            "gw1.example" => GATEWAY.parse().expect("address"),
            "gw2.example" => SECOND.parse().expect("address"),
            "here.example" => Ipv4Addr::LOCALHOST.into(),
            _ => return Err("no such name".to_owned()),
        },
    };
    Ok(vec![(from, gateway)])
}
