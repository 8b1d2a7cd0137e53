//! The handful of numbers from Ethernet up to IKEv2 that the classifier reads.

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of a VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an outer VLAN tag (IEEE 802.1ad).
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
/// EtherType of a PPPoE session (RFC 2516).
pub const ETHERTYPE_PPPOE: u16 = 0x8864;
/// Octets of a PPPoE header and the PPP protocol behind it.
pub const PPPOE_LEN: usize = 8;
/// Version and type of PPPoE, and the code of a session's data.
pub const PPPOE_SESSION: [u8; 2] = [0x11, 0];
/// PPP protocol of IPv4.
pub const PPP_IPV4: u16 = 0x0021;
/// PPP protocol of IPv6.
pub const PPP_IPV6: u16 = 0x0057;

/// IP protocol of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol of ESP.
pub const PROTOCOL_ESP: u8 = 50;
/// IPv6 fragment header.
pub const PROTOCOL_FRAGMENT: u8 = 44;
/// The other IPv6 extension headers that may stand before UDP: hop-by-hop, routing, AH,
/// destination options, mobility, HIP, Shim6.
pub const EXTENSION_HEADERS: [u8; 7] = [0, 43, 51, 60, 135, 139, 140];

/// The IKE port.
pub const PORT_IKE: u16 = 500;
/// The port of IKE and ESP behind a NAT (RFC 3948).
pub const PORT_NAT_T: u16 = 4500;
/// What a NAT keepalive consists of (RFC 3948, 2.3).
pub const KEEPALIVE: u8 = 0xff;
/// Octets of the non-ESP marker before an IKE message on port 4500 (RFC 3948, 2.2).
pub const MARKER_LEN: usize = 4;

/// Octets of the IKE header (RFC 7296, 3.1).
pub const HEADER_LEN: usize = 28;
/// The major version, in the upper half of its octet.
pub const MAJOR_VERSION: u8 = 2;
/// Exchange type IKE_SA_INIT.
pub const IKE_SA_INIT: u8 = 34;
/// Exchange type IKE_SESSION_RESUME (RFC 5723).
pub const IKE_SESSION_RESUME: u8 = 38;
/// Flag: the sender is the original initiator.
pub const FLAG_INITIATOR: u8 = 0x08;
/// Flag: this is a response.
pub const FLAG_RESPONSE: u8 = 0x20;

/// Octets of the generic payload header (RFC 7296, 3.2).
pub const GENERIC_HEADER_LEN: usize = 4;
/// "No next payload".
pub const PAYLOAD_NONE: u8 = 0;
/// Payload type Notify.
pub const PAYLOAD_NOTIFY: u8 = 41;
/// Octets of a Notify payload before its data, when it names no SPI (RFC 7296, 3.10).
pub const NOTIFY_HEADER_LEN: usize = 8;
/// Notify type COOKIE.
pub const COOKIE: u16 = 16390;
/// Notify type TICKET_OPAQUE (RFC 5723).
pub const TICKET_OPAQUE: u16 = 16413;
/// Notify type TICKET_NACK (RFC 5723).
pub const TICKET_NACK: u16 = 16412;
/// Payload type Nonce.
pub const PAYLOAD_NONCE: u8 = 40;
/// The fewest octets of a nonce (RFC 7296, 3.9).
pub const MIN_NONCE: usize = 16;
