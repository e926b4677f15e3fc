"""An EC2-style door: tools that speak EC2's Query API see the machines of a Cobbler as a bare-metal zone."""
