"""What more machines would bring: a simulation of gateways and engines, fed with what was measured on one."""
