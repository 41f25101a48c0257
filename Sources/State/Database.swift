import CShims

/// An SQLite database, in one thread's hands.
final class Database {
  struct Failure: Error, CustomStringConvertible {
    /// What SQLite calls an extended result code.
    let code: Int32
    let description: String

    /// The file is not what it should be, whatever may have happened to it.
    var isDamage: Bool {
      [SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_SCHEMA, SQLITE_ERROR].contains(code & 0xff)
    }
  }

  enum Value {
    case integer(Int64)
    case text(String)
    case null
  }

  private let handle: OpaquePointer
  private var statements: [String: OpaquePointer] = [:]

  /// Opens a file that may have to be made. Nothing ever waits for a lock.
  init(path: String) throws(Failure) {
    var handle: OpaquePointer?
    let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX
    let code = sqlite3_open_v2(path, &handle, flags, nil)
    guard code == SQLITE_OK, let handle else {
      let text = String(cString: sqlite3_errstr(code))
      sqlite3_close_v2(handle)
      throw Failure(code: code, description: text)
    }
    self.handle = handle
    sqlite3_extended_result_codes(handle, 1)
    bpftune_sqlite_distrust(handle)
  }

  deinit {
    for statement in statements.values { sqlite3_finalize(statement) }
    sqlite3_close_v2(handle)
  }

  /// Runs statements without values, which give no rows that matter.
  func execute(_ sql: String) throws(Failure) {
    try check(sqlite3_exec(handle, sql, nil, nil, nil))
  }

  /// Runs a statement; it is prepared once.
  func run(_ sql: String, _ values: Value...) throws(Failure) {
    try each(sql, values, isKept: true) { _ in }
  }

  /// Runs a query, and reads each of its rows.
  func rows<R>(_ sql: String, _ values: [Value] = [], _ read: (Row) -> R?) throws(Failure) -> [R] {
    var found: [R] = []
    try each(sql, values, isKept: false) { row in
      if let value = read(row) { found.append(value) }
    }
    return found
  }

  /// All of `body`, or nothing of it.
  func transaction(_ body: () throws(Failure) -> Void) throws(Failure) {
    try run("BEGIN IMMEDIATE")
    do {
      try body()
      try run("COMMIT")
    } catch {
      // Some failures have ended the transaction already.
      if sqlite3_get_autocommit(handle) == 0 { try? run("ROLLBACK") }
      throw error
    }
  }

  /// One row, as long as the query stands on it.
  struct Row {
    fileprivate let statement: OpaquePointer

    func integer(_ column: Int32) -> Int64 { sqlite3_column_int64(statement, column) }

    func text(_ column: Int32) -> String {
      sqlite3_column_text(statement, column).map { String(cString: $0) } ?? ""
    }
  }

  private func each(
    _ sql: String, _ values: [Value], isKept: Bool, _ read: (Row) -> Void
  ) throws(Failure) {
    let statement = try prepared(sql, isKept: isKept)
    defer {
      if isKept {
        sqlite3_reset(statement)
        sqlite3_clear_bindings(statement)
      } else {
        sqlite3_finalize(statement)
      }
    }
    for (index, value) in values.enumerated() { try bind(value, Int32(index) + 1, statement) }
    while true {
      let code = sqlite3_step(statement)
      if code == SQLITE_DONE { return }
      guard code == SQLITE_ROW else { throw failure(code) }
      read(Row(statement: statement))
    }
  }

  private func bind(_ value: Value, _ index: Int32, _ statement: OpaquePointer) throws(Failure) {
    switch value {
    case .integer(let number): try check(sqlite3_bind_int64(statement, index, number))
    case .null: try check(sqlite3_bind_null(statement, index))
    case .text(var text):
      let code = text.withUTF8 { bytes in
        bytes.withMemoryRebound(to: CChar.self) {
          bpftune_bind_text(statement, index, $0.baseAddress, Int32($0.count))
        }
      }
      try check(code)
    }
  }

  private func prepared(_ sql: String, isKept: Bool) throws(Failure) -> OpaquePointer {
    if isKept, let known = statements[sql] { return known }
    var statement: OpaquePointer?
    let flags = isKept ? UInt32(SQLITE_PREPARE_PERSISTENT) : 0
    try check(sqlite3_prepare_v3(handle, sql, -1, flags, &statement, nil))
    guard let statement else { throw failure(SQLITE_ERROR) }
    if isKept { statements[sql] = statement }
    return statement
  }

  private func check(_ code: Int32) throws(Failure) {
    guard code == SQLITE_OK else { throw failure(code) }
  }

  private func failure(_ code: Int32) -> Failure {
    Failure(code: code, description: String(cString: sqlite3_errmsg(handle)))
  }
}
