"""Which addresses may be dialled: the public internet, and what was declared.

Rules
1. What is not public unicast is refused by an explicit list, each with its reason. The standard library's `is_global`
   lets wrapped metadata addresses pass.
2. An address that wraps another (`::ffff:`, NAT64, 6to4, Teredo, ISATAP) is refused, whatever it wraps.
3. A name that is declared private may lead to private and loopback addresses. Link-local addresses, where clouds keep
   their metadata, must be declared themselves. Multicast and unspecified addresses are never dialled.

Source: the IANA special-purpose address registries; RFC 6890; RFC 5214 §6.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from holdfast.errors import BadCall, Misuse
from holdfast.gateway.hosts import canonical_host, is_address, split_port

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class _Range:
    """Addresses that are not public. `by`: what a declaration must name to open it."""

    network: Network
    why: str
    by: str = "address"


def _ranges(*rows: tuple[str, str, str]) -> tuple[_Range, ...]:
    return tuple(
        _Range(ipaddress.ip_network(network), why, by) for networks, why, by in rows for network in networks.split()
    )


_NAME, _ADDRESS, _NOTHING = "name", "address", "nothing"

_SPECIAL: Final = _ranges(  # the first that fits tells the reason
    ("168.63.129.16/32", "the platform's own address in a cloud", _ADDRESS),
    ("169.254.169.254/32 169.254.170.2/32 100.100.100.200/32 fd00:ec2::254/128", "a cloud's metadata", _ADDRESS),
    ("0.0.0.0/8 ::/128", "unspecified", _NOTHING),
    ("127.0.0.0/8 ::1/128", "loopback", _NAME),
    ("10.0.0.0/8 172.16.0.0/12 192.168.0.0/16", "private", _NAME),
    ("100.64.0.0/10", "shared by a carrier (CGNAT)", _NAME),
    ("169.254.0.0/16 fe80::/10", "link-local", _ADDRESS),
    ("192.0.0.0/24", "reserved for protocols", _ADDRESS),
    ("192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20", "reserved for documentation", _NAME),
    ("192.88.99.0/24", "a 6to4 relay", _ADDRESS),
    ("198.18.0.0/15", "reserved for benchmarks", _NAME),
    ("224.0.0.0/4 ff00::/8", "multicast", _NOTHING),
    ("255.255.255.255/32", "broadcast", _NOTHING),
    ("240.0.0.0/4", "reserved", _ADDRESS),
    ("::ffff:0:0/96 ::ffff:0:0:0/96", "an IPv4 address wrapped in IPv6", _ADDRESS),
    ("64:ff9b::/96 64:ff9b:1::/48", "an IPv4 address behind NAT64", _ADDRESS),
    ("2002::/16", "an IPv4 address behind 6to4", _ADDRESS),
    ("2001::/32", "an IPv4 address behind Teredo", _ADDRESS),
    ("2001::/23", "reserved for protocols", _ADDRESS),
    ("::/96", "an IPv4 address wrapped in IPv6", _ADDRESS),
    ("fc00::/7", "private (ULA)", _NAME),
    ("fec0::/10", "site-local", _ADDRESS),
    ("100::/64", "discarded", _ADDRESS),
)
_PUBLIC_SIX: Final = ipaddress.IPv6Network("2000::/3")
_ISATAP: Final = (0x00005EFE, 0x02005EFE)  # the upper half of an interface's identifier


def special(address: Address) -> tuple[str, str] | None:
    """Why an address is not public, and what a declaration must name to open it (`name`, `address` or `nothing`); None
    if it is public."""
    for row in _SPECIAL:
        if address in row.network:
            return row.why, row.by
    if isinstance(address, ipaddress.IPv6Address):
        if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            return "an IPv4 address behind ISATAP", _ADDRESS
        if address not in _PUBLIC_SIX:
            return "not public unicast", _ADDRESS
    return None


class Reach:
    """What may be dialled besides the public internet: `private` holds hosts, `HOST:PORT`, addresses and networks
    (CIDR). Raises Misuse for an entry that is none of these."""

    def __init__(self, private: Sequence[str] = ()) -> None:
        self._names: set[tuple[str, int | None]] = set()
        self._networks: list[tuple[Network, int | None]] = []
        for entry in private:
            self._declare(entry)

    def _declare(self, entry: str) -> None:
        try:
            if "/" in entry:
                self._networks.append((ipaddress.ip_network(entry), None))
                return
            written, port = (f"[{entry}]", None) if entry.count(":") > 1 and entry[0] != "[" else split_port(entry)
            host = canonical_host(written)
        except (ValueError, BadCall) as error:
            raise Misuse(
                f"`{entry}` cannot be declared private: {error}", fix="name a host, HOST:PORT, an address or a network"
            ) from None
        if is_address(host):
            self._networks.append((ipaddress.ip_network(host), port))
        else:
            self._names.add((host, port))

    def objection(self, host: str, address: Address, port: int) -> str | None:
        """Why `address` may not be dialled at `port` for `host` (in its one form); None if it may."""
        found = special(address)
        if found is None:
            return None
        why, by = found
        if by != _NOTHING and any(
            address in network and known in (None, port)
            for network, known in self._networks
            if network.version == address.version
        ):
            return None
        if by == _NAME and not {(host, None), (host, port)}.isdisjoint(self._names):
            return None
        return f"{address} is {why}"
