-- The same rows every time: no randomness, no clock.
INSERT INTO customers (email, name, created_at)
SELECT 'customer' || n || '@example.org', 'Customer ' || n, timestamptz '2025-01-01 00:00+00' + n * interval '7 minutes'
FROM generate_series(1, 20000) AS n;

INSERT INTO products (sku, title, price_cents)
SELECT 'SKU-' || lpad(n::text, 5, '0'), 'Product ' || n, 199 + (n * 7919) % 9800
FROM generate_series(1, 500) AS n;

INSERT INTO orders (customer_id, status, total_cents, placed_at)
SELECT 1 + (n * 31) % 20000,
       CASE WHEN n % 20 = 0 THEN 'open' ELSE 'shipped' END,
       500 + (n * 104729::bigint) % 50000,
       timestamptz '2025-06-01 00:00+00' + n * interval '12 minutes'
FROM generate_series(1, 40000) AS n;

INSERT INTO order_items (order_id, product_id, quantity, price_cents)
SELECT 1 + n % 40000, product.id, 1 + n % 3, product.price_cents
FROM generate_series(1, 80000) AS n
JOIN products AS product ON product.id = 1 + (n * 17) % 500;

INSERT INTO reviews (product_id, customer_id, stars, body)
SELECT 1 + (n * 13) % 500, 1 + (n * 37) % 20000, 1 + n % 5, 'Review ' || n
FROM generate_series(1, 10000) AS n;

ANALYZE;
