"""Load two contenders in turns, and say which is faster and by how much."""

from dualpath.extras import require

require("compare", "jinja2", "matplotlib", "prometheus_client", "psutil", "scipy", "tritonclient")
