"""HTTP: the hot lane, aiohttp for everything else, and the gate in front of both."""
