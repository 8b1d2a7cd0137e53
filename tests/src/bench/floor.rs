//! The arithmetic that no gateway can do without in a resumption: the same HMACs and AEAD calls, of
//! the same lengths, and nothing around them.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ike::crypto::{
    Encryption, Prf, Secret,
    aead::Aead,
    keymat::{Exchanged, KeyMaterial, child_keys},
    prf::prf,
};

/// The mean time of one resumption's arithmetic, over so many.
pub(super) fn measure(resumptions: u32) -> Result<Duration> {
    let ticket_key = Aead::new(CIPHER, &Secret::new(vec![1; 36])).context("a key")?;
    let mut sealed_ticket = vec![2; TICKET_TEXT];
    ticket_key.seal_with([3; 12], &[4; TICKET_AAD], &mut sealed_ticket);
    let mut sealed_request = vec![5; REQUEST_TEXT];
    let old = Secret::new(vec![6; 32]);
    let exchanged = Exchanged {
        ni: &[7; NONCE],
        nr: &[8; NONCE],
        spi_i: [9; 8],
        spi_r: [10; 8],
    };
    let keys = KeyMaterial::from_ticket(PRF, CIPHER, &old, &exchanged);
    Aead::new(CIPHER, &keys.sk_ei).context("a key")?.seal(
        [0; 8],
        &[11; MESSAGE_AAD],
        &mut sealed_request,
    );

    let start = Instant::now();
    for _ in 0..resumptions {
        let mut text = sealed_ticket.clone();
        let opened = ticket_key.open_with([3; 12], &[4; TICKET_AAD], &mut text);
        black_box(opened.map(<[u8]>::len)).context("the ticket opens")?;
        let keys = KeyMaterial::from_ticket(PRF, CIPHER, black_box(&old), &exchanged);
        let opening = Aead::new(CIPHER, &keys.sk_ei).context("a key")?;
        let sealing = Aead::new(CIPHER, &keys.sk_er).context("a key")?;
        let mut text = sealed_request.clone();
        let opened = opening.open([0; 8], &[11; MESSAGE_AAD], &mut text);
        black_box(opened.map(<[u8]>::len)).context("the request opens")?;
        // Each side's AUTH covers its first message, the other's nonce and its own identity.
        for (key, message) in [(&keys.sk_pi, FIRST_REQUEST), (&keys.sk_pr, FIRST_RESPONSE)] {
            let identity = prf(PRF, key.expose(), &[&[12; IDENTITY]]);
            let covered: [&[u8]; 3] = [
                &[13; FIRST_REQUEST][..message],
                &[14; NONCE],
                identity.expose(),
            ];
            black_box(prf(PRF, key.expose(), &covered));
        }
        black_box(child_keys(
            PRF,
            &keys.sk_d,
            &[],
            (&[7; NONCE], &[8; NONCE]),
            ESP_KEY,
        ));
        black_box(prf(PRF, &[15; 32], &[&[9; 8], &[10; 8]]));
        let mut ticket = vec![2; TICKET_TEXT];
        ticket_key.seal_with([16; 12], &[4; TICKET_AAD], &mut ticket);
        let mut response = vec![17; RESPONSE_TEXT];
        sealing.seal([0; 8], &[11; MESSAGE_AAD], &mut response);
        black_box((ticket, response));
    }
    Ok(start.elapsed() / resumptions)
}

const CIPHER: Encryption = Encryption::AesGcm256;
const PRF: Prf = Prf::HmacSha256;
/// Octets. Of a ticket with two FQDNs and a pre-shared key, without its envelope and tag.
const TICKET_TEXT: usize = 144;
const TICKET_AAD: usize = 24;
const NONCE: usize = 32;
/// IKE header, and the header of the SK payload.
const MESSAGE_AAD: usize = 32;
/// The payloads of IKE_AUTH, either way; the answer has a ticket.
const REQUEST_TEXT: usize = 250;
const RESPONSE_TEXT: usize = 430;
const FIRST_REQUEST: usize = 320;
const FIRST_RESPONSE: usize = 120;
const IDENTITY: usize = 23;
/// Key and salt of ESP, each way.
const ESP_KEY: usize = 36;
