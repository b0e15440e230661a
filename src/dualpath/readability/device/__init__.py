"""Excerpts to tokens and features on a GPU, a whole batch at a time.

The code keeps to calls that cuDF shares with pandas and CuPy with NumPy, so that tests run it with these and hold it to
the CPU's code value by value. Nothing here is imported if an instance runs on the CPU.
"""

from dualpath.readability.device.features import DeviceFeatureCounter
from dualpath.readability.device.rapids import Rapids, load_rapids
from dualpath.readability.device.tokens import DeviceTokenEncoder

__all__ = ["DeviceFeatureCounter", "DeviceTokenEncoder", "Rapids", "load_rapids"]
