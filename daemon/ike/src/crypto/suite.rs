//! The transforms of this release and their sizes (RFC 8247). Each enum's variants are everything we
//! negotiate; the numbers are IANA's.

/// Encryption of the IKE SA; all are AEADs (RFC 5282, RFC 7634).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Encryption {
    /// ENCR_AES_GCM_16 with a 128-bit key.
    AesGcm128,
    /// ENCR_AES_GCM_16 with a 256-bit key.
    AesGcm256,
    /// ENCR_CHACHA20_POLY1305.
    ChaCha20Poly1305,
}

impl Encryption {
    /// Transform ID and, where the cipher has a choice, the key length in bits.
    #[must_use]
    pub const fn transform(self) -> (u16, Option<u16>) {
        match self {
            Self::AesGcm128 => (20, Some(128)),
            Self::AesGcm256 => (20, Some(256)),
            Self::ChaCha20Poly1305 => (28, None),
        }
    }

    /// The reverse of [`Self::transform`].
    #[must_use]
    pub const fn from_transform(id: u16, key_bits: Option<u16>) -> Option<Self> {
        Some(match (id, key_bits) {
            (20, Some(128)) => Self::AesGcm128,
            (20, Some(256)) => Self::AesGcm256,
            (28, None) => Self::ChaCha20Poly1305,
            _ => return None,
        })
    }

    /// Octets of key alone.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::AesGcm128 => 16,
            Self::AesGcm256 | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Octets of key and salt together, as SK_ei and SK_er hold them (RFC 5282, 7.1).
    #[must_use]
    pub const fn key_and_salt_len(self) -> usize {
        self.key_len() + 4
    }

    /// As strongSwan and libreswan write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesGcm128 => "aes128gcm16",
            Self::AesGcm256 => "aes256gcm16",
            Self::ChaCha20Poly1305 => "chacha20poly1305",
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
