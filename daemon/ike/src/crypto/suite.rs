//! The transforms of this release and their sizes (RFC 8247). Each enum's variants are everything we
//! negotiate; the numbers are IANA's.

/// Encryption of the IKE SA: AEADs (RFC 5282, RFC 7634), and for old peers AES-CBC with what
/// authenticates it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Encryption {
    /// ENCR_AES_GCM_16 with a 128-bit key.
    AesGcm128,
    /// ENCR_AES_GCM_16 with a 256-bit key.
    AesGcm256,
    /// ENCR_CHACHA20_POLY1305.
    ChaCha20Poly1305,
    /// ENCR_AES_CBC with a 128-bit key (RFC 3602).
    AesCbc128(Integrity),
    /// ENCR_AES_CBC with a 256-bit key.
    AesCbc256(Integrity),
}

/// What authenticates a cipher that does not do so itself (RFC 4868). The key is as long as the hash, the
/// tag half of it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Integrity {
    /// AUTH_HMAC_SHA2_256_128.
    HmacSha256,
    /// AUTH_HMAC_SHA2_384_192.
    HmacSha384,
    /// AUTH_HMAC_SHA2_512_256.
    HmacSha512,
}

impl Integrity {
    /// All of them, the fastest first.
    pub const ALL: [Self; 3] = [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512];

    /// Transform ID.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::HmacSha256 => 12,
            Self::HmacSha384 => 13,
            Self::HmacSha512 => 14,
        }
    }

    /// The reverse of [`Self::number`].
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            12 => Self::HmacSha256,
            13 => Self::HmacSha384,
            14 => Self::HmacSha512,
            _ => return None,
        })
    }

    /// Octets of key.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// Octets of the tag, to which the hash is cut.
    #[must_use]
    pub const fn tag_len(self) -> usize {
        self.key_len() / 2
    }

    /// As strongSwan writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "sha256",
            Self::HmacSha384 => "sha384",
            Self::HmacSha512 => "sha512",
        }
    }

    /// The PRF of the same hash.
    #[must_use]
    pub const fn prf(self) -> Prf {
        match self {
            Self::HmacSha256 => Prf::HmacSha256,
            Self::HmacSha384 => Prf::HmacSha384,
            Self::HmacSha512 => Prf::HmacSha512,
        }
    }
}

impl Encryption {
    /// Transform ID and, where the cipher has a choice, the key length in bits.
    #[must_use]
    pub const fn transform(self) -> (u16, Option<u16>) {
        match self {
            Self::AesGcm128 => (20, Some(128)),
            Self::AesGcm256 => (20, Some(256)),
            Self::ChaCha20Poly1305 => (28, None),
            Self::AesCbc128(_) => (12, Some(128)),
            Self::AesCbc256(_) => (12, Some(256)),
        }
    }

    /// The reverse of [`Self::transform`] and [`Self::integrity`].
    #[must_use]
    pub const fn from_transform(
        id: u16,
        key_bits: Option<u16>,
        integrity: Option<Integrity>,
    ) -> Option<Self> {
        Some(match (id, key_bits, integrity) {
            (20, Some(128), None) => Self::AesGcm128,
            (20, Some(256), None) => Self::AesGcm256,
            (28, None, None) => Self::ChaCha20Poly1305,
            (12, Some(128), Some(integrity)) => Self::AesCbc128(integrity),
            (12, Some(256), Some(integrity)) => Self::AesCbc256(integrity),
            _ => return None,
        })
    }

    /// What authenticates it; `None` for an AEAD.
    #[must_use]
    pub const fn integrity(self) -> Option<Integrity> {
        match self {
            Self::AesGcm128 | Self::AesGcm256 | Self::ChaCha20Poly1305 => None,
            Self::AesCbc128(integrity) | Self::AesCbc256(integrity) => Some(integrity),
        }
    }

    /// Octets of key alone.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::AesGcm128 | Self::AesCbc128(_) => 16,
            Self::AesGcm256 | Self::ChaCha20Poly1305 | Self::AesCbc256(_) => 32,
        }
    }

    /// Octets of SK_ei and SK_er: a key, and an AEAD's salt behind it (RFC 5282, 7.1).
    #[must_use]
    pub const fn key_and_salt_len(self) -> usize {
        match self.integrity() {
            None => self.key_len() + 4,
            Some(_) => self.key_len(),
        }
    }

    /// Octets of keys that a direction of a Child SA has: what SK_e and SK_a are to an IKE SA.
    #[must_use]
    pub const fn key_octets(self) -> usize {
        self.key_and_salt_len() + self.integrity_key_len()
    }

    /// Octets of SK_ai and SK_ar; AEADs have none.
    #[must_use]
    pub const fn integrity_key_len(self) -> usize {
        match self.integrity() {
            None => 0,
            Some(integrity) => integrity.key_len(),
        }
    }

    /// As strongSwan writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesGcm128 => "aes128gcm16",
            Self::AesGcm256 => "aes256gcm16",
            Self::ChaCha20Poly1305 => "chacha20poly1305",
            Self::AesCbc128(Integrity::HmacSha256) => "aes128-sha256",
            Self::AesCbc128(Integrity::HmacSha384) => "aes128-sha384",
            Self::AesCbc128(Integrity::HmacSha512) => "aes128-sha512",
            Self::AesCbc256(Integrity::HmacSha256) => "aes256-sha256",
            Self::AesCbc256(Integrity::HmacSha384) => "aes256-sha384",
            Self::AesCbc256(Integrity::HmacSha512) => "aes256-sha512",
        }
    }
}

/// Pseudo-random function.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Prf {
    /// PRF_HMAC_SHA2_256.
    HmacSha256,
    /// PRF_HMAC_SHA2_384.
    HmacSha384,
    /// PRF_HMAC_SHA2_512.
    HmacSha512,
}

impl Prf {
    /// Transform ID.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::HmacSha256 => 5,
            Self::HmacSha384 => 6,
            Self::HmacSha512 => 7,
        }
    }

    /// The reverse of [`Self::number`].
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            5 => Self::HmacSha256,
            6 => Self::HmacSha384,
            7 => Self::HmacSha512,
            _ => return None,
        })
    }

    /// Octets of output, which is also the preferred key length.
    #[must_use]
    pub const fn output_len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// As strongSwan writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "prfsha256",
            Self::HmacSha384 => "prfsha384",
            Self::HmacSha512 => "prfsha512",
        }
    }
}

/// Key exchange method.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Group {
    /// 256-bit random ECP group (RFC 5903).
    P256,
    /// 384-bit random ECP group (RFC 5903).
    P384,
    /// Curve25519 (RFC 8031).
    X25519,
}

impl Group {
    /// Transform ID.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::P256 => 19,
            Self::P384 => 20,
            Self::X25519 => 31,
        }
    }

    /// The reverse of [`Self::number`].
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            19 => Self::P256,
            20 => Self::P384,
            31 => Self::X25519,
            _ => return None,
        })
    }

    /// Octets of a public value on the wire: x and y for the P curves, without the leading 4.
    #[must_use]
    pub const fn public_len(self) -> usize {
        match self {
            Self::P256 => 64,
            Self::P384 => 96,
            Self::X25519 => 32,
        }
    }

    /// As strongSwan writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "ecp256",
            Self::P384 => "ecp384",
            Self::X25519 => "x25519",
        }
    }
}
