"""Network interfaces of this node. No torch, so that it can be asked before anything starts."""

import socket

import psutil


def addresses() -> dict[str, list[str]]:
    """IPv4 addresses by name of interface."""
    return {
        name: found
        for name, entries in psutil.net_if_addrs().items()
        if (found := [entry.address for entry in entries if entry.family == socket.AF_INET])
    }


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this IPv4 address; None if there is none."""
    return next((name for name, found in addresses().items() if address in found), None)
