"""Runs otterdog against a GitHub at another address: `otterdog_at.py URL ARGUMENT…`.

otterdog has no option for the address. Its cache in another process (ghproxy) is reached at an address of its
own, which gets every request.
"""

import sys

import otterdog.cache
import otterdog.cli
from otterdog.providers.github.cache.ghproxy import ghproxy_cache

url = sys.argv.pop(1)
set_cache = otterdog.cache.set_github_cache
set_cache(ghproxy_cache(url))
# The command line sets a cache of files.
otterdog.cli.set_github_cache = lambda _: set_cache(ghproxy_cache(url))
otterdog.cli.cli()
