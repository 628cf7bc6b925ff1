"""The device flag, and the only door between host and device."""

from nnaccel.devices.available import DeviceInfo, available
from nnaccel.devices.device import Device, device_of, select, to_host

__all__ = ["Device", "DeviceInfo", "available", "device_of", "select", "to_host"]
