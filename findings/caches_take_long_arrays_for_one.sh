#!/usr/bin/env bash
# aiocache 0.12.3, dogpile.cache 1.5.0, Flask-Caching 2.5.1, cashews 7.6.0: a function that takes a numpy array of more
# than 1,000 numbers gets the answer of another array, if the first and last three numbers agree.
#
# A good guess says that a decorator which caches by arguments either tells them apart or refuses them. These four make
# the key of str() or repr() of each argument, and numpy writes an array of more than 1,000 numbers as six of them and
# dots. Padded token ids begin with the same template and end in padding, a bag of words is 0 at both ends: two
# questions are one key, and the second gets the first's embedding, hits or answer. Tests with short arrays pass:
# 1,000 numbers are told apart, 1,001 are not. `ids.tobytes()` as the argument, or a key function, tells them apart.
#
# Known: no report was found of any of the four.
#
# Seen: the sum of the first array for both, by each of the four, at 1,001 numbers; the right sums at 1,000.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "numpy==2.4.6" "aiocache==0.12.3" \
  "dogpile.cache==1.5.0" "flask-caching==2.5.1" "cashews==7.6.0"
"$work/venv/bin/python" -W ignore - <<'PY'
import asyncio
from importlib.metadata import version

import aiocache
import cashews
import flask
import flask_caching
import numpy as np
from dogpile.cache import make_region


def padded(tokens, length):
    """Token ids between the same beginning and padding."""
    return np.array([101, 2129, 2079, *tokens, *[0] * (length - 3 - len(tokens))])


def questions(length):
    return padded([7, 8, 9], length), padded([70, 80, 90, 100], length)


def by_aiocache(length):
    @aiocache.cached()
    async def summed(ids):
        return int(ids.sum())

    async def both():
        return [await summed(ids) for ids in questions(length)]

    return asyncio.run(both())


def by_cashews(length):
    cashews.cache.setup("mem://")

    @cashews.cache(ttl="1h", prefix=str(length))
    async def summed(ids):
        return int(ids.sum())

    async def both():
        return [await summed(ids) for ids in questions(length)]

    return asyncio.run(both())


def by_dogpile(length):
    @make_region().configure("dogpile.cache.memory").cache_on_arguments()
    def summed(ids):
        return int(ids.sum())

    return [summed(ids) for ids in questions(length)]


def by_flask(length):
    app = flask.Flask("finding")
    cache = flask_caching.Cache(app, config={"CACHE_TYPE": "SimpleCache"})

    @cache.memoize()
    def summed(ids):
        return int(ids.sum())

    with app.app_context():
        return [summed(ids) for ids in questions(length)]


print("numpy", np.__version__)
CACHES = {"aiocache": by_aiocache, "dogpile.cache": by_dogpile, "flask-caching": by_flask, "cashews": by_cashews}
right = [int(ids.sum()) for ids in questions(1000)]
for name, sums in CACHES.items():
    short, long = sums(1000), sums(1001)
    print(f"{name} {version(name)}: right {right}, 1,000 numbers {short}, 1,001 numbers {long}")
    assert short == right
    assert long == [right[0], right[0]], f"{name} tells long arrays apart, or refuses them, now"
PY
