"""`sparsync proxy`: a TCP proxy that misbehaves by a seed, in front of one role."""

from __future__ import annotations

import click

from sparsync.cli.amounts import DURATION, SIZE, SPAN
from sparsync.faults.rules import Direction, Faults, Rule, Span

BOTH = "both"


@click.command()
@click.option("--target", metavar="HOST:PORT", required=True, help="What it forwards to; may come later.")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:0", show_default=True, help="Port 0: any.")
@click.option("--latency", "latency_s", type=DURATION, default=0.0, help="Of every byte, as in 50ms.")
@click.option("--jitter", "jitter_s", type=DURATION, default=0.0, help="Up to so much more; order is kept.")
@click.option("--rate", type=SIZE, help="Bytes a second, of all connections together, in each direction.")
@click.option("--reset-after", type=SPAN, metavar="N[..M]", help="Reset a connection after so many bytes.")
@click.option("--silent-after", type=SPAN, metavar="N[..M]", help="Swallow what follows; close nothing.")
@click.option("--flip-at", type=SPAN, metavar="N[..M]", help="Flip one bit of the byte at that offset.")
@click.option(
    "--chance",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="That a connection is reset, falls silent, or has its bit flipped.",
)
@click.option(
    "--lose-answers",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Chance that a connection is reset just when a call is answered. Without TLS only.",
)
@click.option(
    "--answered-bytes", type=SIZE, default=1024, show_default=True, help="Calls of fewer bytes keep theirs."
)
@click.option(
    "--direction",
    type=click.Choice([BOTH, *(direction.value for direction in Direction)]),
    default=BOTH,
    show_default=True,
    help="Which one the faults are in; up: towards the target.",
)
@click.option("--connection", "connections", type=int, multiple=True, help="Only this one, counted from 0.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn.")
def proxy(
    target: str,
    listen: str,
    latency_s: float,
    jitter_s: float,
    rate: float | None,
    reset_after: Span | None,
    silent_after: Span | None,
    flip_at: Span | None,
    chance: float,
    lose_answers: float,
    answered_bytes: float,
    direction: str,
    connections: tuple[int, ...],
    seed: int,
) -> None:
    """Forward TCP connections and misbehave: the same seed does the same to the same connections.

    Prints its address on standard output, then each fault on standard error, until it is
    interrupted. SIGUSR1 cuts the network in both directions, nothing is closed; SIGUSR2
    mends it, and what was kept back goes on.
    """
    if rate == 0:
        raise click.BadParameter(
            "0 bytes a second never arrive; leave it out for no limit", param_hint="--rate"
        )
    rule = Rule(
        latency_s=latency_s,
        jitter_s=jitter_s,
        rate=rate,
        reset_after=reset_after,
        silent_after=silent_after,
        flip_at=flip_at,
        chance=chance,
        lose_answers=lose_answers,
        answered_bytes=int(answered_bytes),
        directions=frozenset(Direction) if direction == BOTH else frozenset({Direction(direction)}),
        connections=frozenset(connections) or None,
    )
    import asyncio

    asyncio.run(serve(Faults([rule], seed=seed), target, listen))


async def serve(faults: Faults, target: str, listen: str) -> None:
    """Until SIGINT or SIGTERM. Raises PortTaken, ConfigError."""
    import asyncio
    import signal

    from sparsync.faults.proxy import Proxy
    from sparsync.faults.way import Order
    from wire.clock import utc_timestamp
    from wire.errors import PortTaken

    def say(text: str) -> None:
        click.echo(f"{utc_timestamp()} {text}", err=True)

    def give(order: Order) -> None:
        running.give(order)
        say("the network is mended" if order is Order.PASS else "the network is cut")

    running, over = Proxy(faults, say=say), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    loop.add_signal_handler(signal.SIGUSR1, give, Order.HOLD)
    loop.add_signal_handler(signal.SIGUSR2, give, Order.PASS)
    try:
        address = await running.forward(target, listen=listen)
    except OSError as error:
        raise PortTaken(
            f"--listen {listen}: {error.strerror}; choose another port, 0 takes a free one"
        ) from None
    click.echo(address)
    say(f"{address} forwards to {target}, seed {faults.seed}")
    try:
        await over.wait()
    finally:
        await running.close()
