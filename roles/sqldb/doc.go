// Package sqldb is what every party's database needs once: one way to open SQLite or PostgreSQL, one
// kind of transaction, the answers that make a repeated request harmless, and the jobs that a state
// change leaves behind.
//
// # One SQL for both engines
//
// A store is written once. What both engines take:
//
//   - placeholders $1, $2 ... in any order, each as often as needed
//   - columns TEXT, BYTEA and BIGINT; times as BIGINT in Unix seconds or milliseconds, money as BIGINT
//     in minor units; no BOOLEAN, no TIMESTAMP, no floating point, no generated keys
//   - INSERT ... ON CONFLICT DO NOTHING, RETURNING, and counting the rows affected. A plain INSERT that
//     hits a constraint ends a PostgreSQL transaction, so that nothing more can be asked in it
//
// # Promises
//
// Transactions are serializable on both engines: SQLite takes its single write lock when the
// transaction begins, PostgreSQL runs it at isolation level SERIALIZABLE. No row needs locking by hand,
// and a check made in a transaction still holds when it commits. Either engine may ask for the
// transaction to be run again; [DB.Tx] does so.
//
// When [DB.Tx] returns nil, the change is on disk: SQLite runs in WAL mode with synchronous=FULL,
// PostgreSQL as its server is configured. When it returns an error, nothing was changed, with one
// exception: a connection lost during COMMIT leaves the outcome unknown ([ErrUnavailable]). Callers
// therefore make every state change idempotent, by an answer key or by a key of their own.
//
// A [DB] may be used by any number of goroutines. A SQLite file may be opened by several processes of
// one machine, a PostgreSQL database by several machines.
package sqldb
