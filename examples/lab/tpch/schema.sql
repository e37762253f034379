-- Decision support in the manner of TPC-H at a tenth of its smallest scale. Not a benchmark kit.
CREATE TABLE nation (n_nationkey int PRIMARY KEY, n_name text NOT NULL, n_regionkey int NOT NULL);
CREATE TABLE supplier (s_suppkey int PRIMARY KEY, s_name text NOT NULL, s_nationkey int NOT NULL, s_acctbal numeric(12,2) NOT NULL);
CREATE TABLE customer (c_custkey int PRIMARY KEY, c_name text NOT NULL, c_nationkey int NOT NULL, c_mktsegment text NOT NULL, c_acctbal numeric(12,2) NOT NULL);
CREATE TABLE part (p_partkey int PRIMARY KEY, p_name text NOT NULL, p_brand text NOT NULL, p_container text NOT NULL, p_size int NOT NULL, p_retailprice numeric(12,2) NOT NULL);
CREATE TABLE partsupp (ps_partkey int NOT NULL, ps_suppkey int NOT NULL, ps_availqty int NOT NULL, ps_supplycost numeric(12,2) NOT NULL, PRIMARY KEY (ps_partkey, ps_suppkey));
CREATE TABLE orders (
    o_orderkey int PRIMARY KEY,
    o_custkey int NOT NULL,
    o_orderstatus text NOT NULL,
    o_totalprice numeric(12,2) NOT NULL,
    o_orderdate date NOT NULL,
    o_orderpriority text NOT NULL,
    o_comment text NOT NULL
);
CREATE TABLE lineitem (
    l_orderkey int NOT NULL,
    l_linenumber int NOT NULL,
    l_partkey int NOT NULL,
    l_suppkey int NOT NULL,
    l_quantity numeric(6,2) NOT NULL,
    l_extendedprice numeric(12,2) NOT NULL,
    l_discount numeric(4,2) NOT NULL,
    l_returnflag text NOT NULL,
    l_linestatus text NOT NULL,
    l_shipdate date NOT NULL,
    l_comment text NOT NULL,
    PRIMARY KEY (l_orderkey, l_linenumber)
);
INSERT INTO nation SELECT n, 'Nation ' || n, n % 5 FROM generate_series(0, 24) n;
INSERT INTO supplier SELECT n, 'Supplier ' || n, n % 25, n % 9999 FROM generate_series(1, 1000) n;
INSERT INTO customer SELECT n, 'Customer ' || n, n % 25, (ARRAY['BUILDING','MACHINERY','HOUSEHOLD','FURNITURE','AUTOMOBILE'])[1 + n % 5], n % 9999 FROM generate_series(1, 15000) n;
INSERT INTO part SELECT n, 'Part ' || n, 'Brand#' || n % 50, 'Box ' || n % 40, 1 + n % 50, 900 + n % 1000 FROM generate_series(1, 20000) n;
INSERT INTO partsupp SELECT p, 1 + (p + s * 251) % 1000, 1 + p % 9999, 1 + p % 1000 FROM generate_series(1, 20000) p, generate_series(0, 3) s;
INSERT INTO orders
SELECT n, 1 + n::bigint * 7919 % 15000, (ARRAY['O','F','P'])[1 + n % 3], 1000 + n % 90000, date '2019-01-01' + n % 2400, (1 + n % 5) || '-PRIORITY', 'the packages wait ' || md5(n::text)
FROM generate_series(1, 150000) n;
INSERT INTO lineitem
SELECT o, l, 1 + (o::bigint * 104729 + l * 4241) % 20000, 1 + (o * 17 + l * 5) % 1000, 1 + (o + l) % 50, 900 + (o + l * 3) % 90000, (o % 11) * 0.01,
    (ARRAY['A','N','R'])[1 + (o + l) % 3], (ARRAY['O','F'])[1 + o % 2], date '2019-01-10' + (o + l) % 2400, 'carefully ' || md5((o * l)::text)
FROM generate_series(1, 150000) o, generate_series(1, 4) l;
CREATE INDEX orders_custkey_idx ON orders (o_custkey);
CREATE INDEX orders_orderdate_idx ON orders (o_orderdate);
CREATE INDEX lineitem_partkey_idx ON lineitem (l_partkey);
CREATE INDEX lineitem_shipdate_idx ON lineitem (l_shipdate);
