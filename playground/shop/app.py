"""The shop itself: /health, and a checkout that inserts an order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from aiohttp import web

from playground.shop.data import libpq

_URL = web.AppKey("url", str)

_CHECKOUT = """
    WITH product AS (SELECT id, price_cents FROM products WHERE id = %(product)s),
    placed AS (
        INSERT INTO orders (customer_id, total_cents) SELECT %(customer)s, price_cents * %(quantity)s FROM product RETURNING id
    )
    INSERT INTO order_items (order_id, product_id, quantity, price_cents)
    SELECT placed.id, product.id, %(quantity)s, product.price_cents FROM placed, product RETURNING order_id
"""


@asynccontextmanager
async def serving(url: str, port: int = 0) -> AsyncIterator[str]:
    """Run the shop on 127.0.0.1 with this database; gives its address, e.g. http://127.0.0.1:8000."""
    app = web.Application()
    app[_URL] = libpq(url)
    app.router.add_get("/health", health)
    app.router.add_post("/checkout", checkout)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def health(request: web.Request) -> web.Response:
    """Healthy means that somebody could buy something: an order is placed and not kept. 503 with the reason otherwise."""
    try:
        await _place(request.app[_URL], customer=1, product=1, quantity=1, keep=False)
    except psycopg.Error as error:
        return web.json_response({"status": "unhealthy", "reason": f"checkout is down: {_first_line(error)}"}, status=503)
    return web.json_response({"status": "healthy"})


async def checkout(request: web.Request) -> web.Response:
    """JSON {customer, product, quantity}, each an integer; answers 201 {order}, 400, or 500 {error}."""
    try:
        body = await request.json()
        wanted = {name: int(body.get(name, 1)) for name in ("customer", "product", "quantity")}
    except (ValueError, TypeError, AttributeError):
        return web.json_response({"error": "send {customer, product, quantity} as JSON numbers"}, status=400)
    try:
        order = await _place(request.app[_URL], **wanted, keep=True)
    except psycopg.Error as error:
        return web.json_response({"error": _first_line(error)}, status=500)
    if order is None:
        return web.json_response({"error": "there is no such product"}, status=400)
    return web.json_response({"order": order}, status=201)


async def _place(url: str, *, customer: int, product: int, quantity: int, keep: bool) -> int | None:
    async with (
        await psycopg.AsyncConnection.connect(url, connect_timeout=5, application_name="shop") as connection,
        connection.transaction(force_rollback=not keep),
    ):
        cursor = await connection.execute(_CHECKOUT, {"customer": customer, "product": product, "quantity": quantity})
        row = await cursor.fetchone()
    return None if row is None else int(row[0])


def _first_line(error: psycopg.Error) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
