-- Order entry in the manner of TPC-C: two warehouses, cut down so that it loads in seconds. Not a benchmark kit.
CREATE TABLE warehouse (w_id int PRIMARY KEY, w_name text NOT NULL, w_tax numeric(4,4) NOT NULL, w_ytd numeric(14,2) NOT NULL) WITH (fillfactor = 50);
CREATE TABLE district (
    d_w_id int NOT NULL,
    d_id int NOT NULL,
    d_name text NOT NULL,
    d_tax numeric(4,4) NOT NULL,
    d_ytd numeric(14,2) NOT NULL,
    d_next_o_id int NOT NULL,
    PRIMARY KEY (d_w_id, d_id)
) WITH (fillfactor = 50);
CREATE TABLE customer (
    c_w_id int NOT NULL,
    c_d_id int NOT NULL,
    c_id int NOT NULL,
    c_last text NOT NULL,
    c_first text NOT NULL,
    c_credit text NOT NULL,
    c_balance numeric(12,2) NOT NULL,
    c_payment_cnt int NOT NULL,
    c_data text NOT NULL,
    PRIMARY KEY (c_w_id, c_d_id, c_id)
) WITH (fillfactor = 80);
CREATE TABLE item (i_id int PRIMARY KEY, i_name text NOT NULL, i_price numeric(6,2) NOT NULL, i_data text NOT NULL);
CREATE TABLE stock (
    s_w_id int NOT NULL,
    s_i_id int NOT NULL,
    s_quantity int NOT NULL,
    s_ytd int NOT NULL,
    s_order_cnt int NOT NULL,
    s_data text NOT NULL,
    PRIMARY KEY (s_w_id, s_i_id)
) WITH (fillfactor = 80);
CREATE TABLE orders (
    o_w_id int NOT NULL,
    o_d_id int NOT NULL,
    o_id bigserial,
    o_c_id int NOT NULL,
    o_entry_d timestamptz NOT NULL DEFAULT now(),
    o_carrier_id int,
    o_ol_cnt int NOT NULL,
    PRIMARY KEY (o_w_id, o_d_id, o_id)
) WITH (fillfactor = 90);
CREATE TABLE order_line (
    ol_o_id bigint NOT NULL,
    ol_number int NOT NULL,
    ol_i_id int NOT NULL,
    ol_quantity int NOT NULL,
    ol_amount numeric(8,2) NOT NULL,
    PRIMARY KEY (ol_o_id, ol_number)
);
CREATE TABLE history (h_c_id int NOT NULL, h_w_id int NOT NULL, h_date timestamptz NOT NULL DEFAULT now(), h_amount numeric(6,2) NOT NULL);
INSERT INTO warehouse SELECT n, 'Warehouse ' || n, 0.1, 300000 FROM generate_series(1, 2) n;
INSERT INTO district SELECT w, d, 'District ' || d, 0.1, 30000, 3001 FROM generate_series(1, 2) w, generate_series(1, 10) d;
INSERT INTO customer
SELECT w, d, c, 'NAME' || c * 7919 % 1000, 'First ' || c, CASE c % 10 WHEN 0 THEN 'BC' ELSE 'GC' END, -10, 1, repeat(md5(c::text), 8)
FROM generate_series(1, 2) w, generate_series(1, 10) d, generate_series(1, 3000) c;
INSERT INTO item SELECT n, 'Item ' || n, 1 + n % 100, md5(n::text) FROM generate_series(1, 20000) n;
INSERT INTO stock SELECT w, n, 10 + n % 90, 0, 0, repeat(md5(n::text), 2) FROM generate_series(1, 2) w, generate_series(1, 20000) n;
INSERT INTO orders (o_w_id, o_d_id, o_c_id, o_entry_d, o_carrier_id, o_ol_cnt)
SELECT 1 + n % 2, 1 + n % 10, 1 + n::bigint * 7919 % 3000, now() - (150000 - n) * interval '1 minute', 1 + n % 10, 5 FROM generate_series(1, 150000) n;
INSERT INTO order_line SELECT o, l, 1 + (o::bigint * 104729 + l * 31) % 20000, 5, 10 + o % 90 FROM generate_series(1, 150000) o, generate_series(1, 5) l;
CREATE INDEX customer_name_idx ON customer (c_w_id, c_d_id, c_last);
CREATE INDEX orders_customer_idx ON orders (o_w_id, o_d_id, o_c_id, o_id);
