"""The sections of `python -m bench`: a module each, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.measure.rows import Bench, Section
from bench.sections.batches import batches_section
from bench.sections.curves import curves_section
from bench.sections.front import front_section
from bench.sections.keys import keys_section
from bench.sections.latency import latency_section
from bench.sections.one_key import one_key_section
from bench.sections.reload import reload_section
from bench.sections.sellers import sellers_section
from bench.sections.servers import servers_section
from bench.sections.start import start_section
from bench.sections.switches import switches_section
from bench.sections.workers import workers_section

SECTIONS: Mapping[str, Callable[[Bench], Section]] = {
    "servers": servers_section,
    "one-key": one_key_section,
    "workers": workers_section,
    "front": front_section,
    "batches": batches_section,
    "latency": latency_section,
    "switches": switches_section,
    "sellers": sellers_section,
    "start": start_section,
    "curves": curves_section,
    "reload": reload_section,
    "keys": keys_section,
}
