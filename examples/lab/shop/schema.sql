-- A web shop: big enough that a sequential scan of its large tables hurts, small enough to load in seconds.
-- Statements are separated by semicolons at the end of a line. Rows are made from their number, so every load is alike.
CREATE TABLE customers (
    id bigint PRIMARY KEY,
    email text NOT NULL,
    name text NOT NULL,
    city text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TABLE products (
    id bigint PRIMARY KEY,
    sku text NOT NULL,
    name text NOT NULL,
    category text NOT NULL,
    price numeric(10,2) NOT NULL,
    stock integer NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE TABLE orders (
    id bigserial,
    customer_id bigint NOT NULL,
    status text NOT NULL,
    total numeric(12,2) NOT NULL,
    shipping_address text NOT NULL,
    note text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE order_items (
    id bigserial,
    order_id bigint NOT NULL,
    product_id bigint NOT NULL,
    quantity integer NOT NULL,
    price numeric(10,2) NOT NULL
);
CREATE TABLE payments (
    id bigserial,
    order_id bigint NOT NULL,
    method text NOT NULL,
    status text NOT NULL,
    amount numeric(12,2) NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 85);
CREATE TABLE events (
    id bigserial,
    customer_id bigint NOT NULL,
    kind text NOT NULL,
    payload text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE event_tags (
    event_id bigint NOT NULL,
    tag text NOT NULL
);
CREATE TABLE carts (
    id bigint PRIMARY KEY,
    customer_id bigint NOT NULL,
    status text NOT NULL,
    items integer NOT NULL,
    total numeric(12,2) NOT NULL,
    coupon text NOT NULL,
    device text NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 60);
CREATE TABLE audit_log (
    id bigserial PRIMARY KEY,
    actor text NOT NULL,
    action text NOT NULL,
    detail text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO customers
SELECT n, 'customer' || n || '@example.com', 'Customer ' || n, 'City ' || n % 400, now() - n % 900 * interval '1 day'
FROM generate_series(1, 20000) n;
INSERT INTO products
SELECT n, 'SKU-' || lpad(n::text, 6, '0'), 'Product ' || n, 'Category ' || n % 60, 5 + n % 195, 1000000, now()
FROM generate_series(1, 5000) n;
INSERT INTO orders (customer_id, status, total, shipping_address, note, created_at)
SELECT 1 + n::bigint * 7919 % 20000, (ARRAY['paid','shipped','delivered','returned','delivered'])[1 + n % 5], 20 + n % 480,
    n % 900 || ' Market Street, City ' || n % 400 || ', Postal code ' || 10000 + n % 80000,
    'Leave the parcel with the neighbour at number ' || n % 70 || ' when nobody answers the door', now() - (800000 - n) * interval '1 minute'
FROM generate_series(1, 800000) n;
INSERT INTO order_items (order_id, product_id, quantity, price)
SELECT 1 + (n - 1) * 2 / 3, 1 + n::bigint * 104729 % 5000, 1 + n % 4, 5 + n % 195
FROM generate_series(1, 1200000) n;
INSERT INTO payments (order_id, method, status, amount, updated_at)
SELECT 400000 + n, (ARRAY['card','transfer','wallet'])[1 + n % 3], 'settled', 20 + n % 480, now() - (400000 - n) * interval '2 minutes'
FROM generate_series(1, 400000) n;
INSERT INTO events (customer_id, kind, payload, created_at)
SELECT 1 + n::bigint * 6151 % 20000, (ARRAY['view','search','add','login'])[1 + n % 4],
    'page=/catalogue/' || n % 5000 || '&ref=newsletter&device=' || n % 7 || '&session=' || n::bigint * 48271 % 2147483647,
    now() - (1200000 - n) * interval '1 minute'
FROM generate_series(1, 1200000) n;
INSERT INTO event_tags
SELECT n, 'campaign-' || n % 300
FROM generate_series(1, 1200000, 2) n;
INSERT INTO carts
SELECT n, 1 + n::bigint * 7919 % 20000, 'open', n % 9, 10 + n % 300, 'none', 'web', now()
FROM generate_series(1, 60000) n;
ALTER TABLE orders ADD PRIMARY KEY (id);
ALTER TABLE order_items ADD PRIMARY KEY (id);
ALTER TABLE payments ADD PRIMARY KEY (id);
ALTER TABLE events ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX customers_email_key ON customers (email);
CREATE INDEX customers_city_idx ON customers (city);
CREATE UNIQUE INDEX products_sku_key ON products (sku);
CREATE INDEX products_category_idx ON products (category);
CREATE INDEX orders_customer_id_idx ON orders (customer_id);
CREATE INDEX orders_created_at_idx ON orders (created_at);
CREATE INDEX order_items_order_id_idx ON order_items (order_id);
CREATE INDEX order_items_product_id_idx ON order_items (product_id);
CREATE INDEX payments_order_id_idx ON payments (order_id);
CREATE INDEX events_customer_id_idx ON events (customer_id);
CREATE INDEX event_tags_event_id_idx ON event_tags (event_id);
CREATE INDEX carts_customer_id_idx ON carts (customer_id);
ALTER TABLE event_tags ADD FOREIGN KEY (event_id) REFERENCES events ON DELETE CASCADE;
