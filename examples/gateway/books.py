"""Makes shop.db: three invoices, and the table in which the gateway keeps the keys of writes."""

import sqlite3

books = sqlite3.connect("shop.db")
books.executescript(
    "CREATE TABLE invoices (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL, paid INTEGER NOT NULL) STRICT;"
    "INSERT INTO invoices VALUES (76, 1200, 1), (77, 1900, 0), (78, 250000, 0);"
    "CREATE TABLE holdfast_keys (key TEXT PRIMARY KEY, answer TEXT NOT NULL) STRICT;"
)
books.close()
