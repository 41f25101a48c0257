import Glibc
import Kernel

extension StateFile {
  // MARK: Records

  /// Stores a record, or what became of it.
  public func save(_ record: Record, own: Bool) throws(Failure) {
    try describing { () throws(Database.Failure) in try put(record, own: own) }
  }

  /// The largest number that a record has.
  public func lastRecord() throws(Failure) -> Int64 {
    try describing { () throws(Database.Failure) in try lastID() }
  }

  func lastID() throws(Database.Failure) -> Int64 {
    try database.rows("SELECT max(id) FROM record") { $0.integer(0) }.first ?? 0
  }

  func put(_ record: Record, own: Bool) throws(Database.Failure) {
    try database.run(
      "INSERT OR REPLACE INTO record VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
      .integer(record.id), .text(record.kind.rawValue), .integer(record.time),
      .text(record.boot), .integer(own ? 1 : 0), .text(record.tuner), .text(record.tunable),
      cookie(record.namespace), inode(record.namespace), .text(record.namespaceName),
      .text(record.old), .text(record.new), .text(record.scenario), .text(record.reason),
      .text(record.outcome), .integer(Int64(record.repeats)),
      record.verdict.map { .text($0.rawValue) } ?? .null, .text(record.effect))
  }

  /// The newest that the filter lets through, the newest first.
  public func history(_ filter: HistoryFilter) throws(Failure) -> [Record] {
    var conditions: [String] = []
    var values: [Database.Value] = []
    func require(_ condition: String, _ given: Database.Value...) {
      conditions.append(condition)
      values += given
    }
    if let since = filter.since { require("time >= ?", .integer(since)) }
    if let before = filter.before { require("id < ?", .integer(before)) }
    if let tuner = filter.tuner { require("tuner = ?", .text(tuner)) }
    if let tunable = filter.tunable {
      require(
        "(tunable = ? OR substr(tunable, -1 - length(?)) = '.' || ?)", .text(tunable),
        .text(tunable), .text(tunable))
    }
    if !filter.kinds.isEmpty {
      let kinds = filter.kinds.map { "'\($0.rawValue)'" }.sorted().joined(separator: ",")
      require("kind IN (\(kinds))")
    }
    switch filter.namespace {
    case .all: break
    case .own: require("own = 1")
    case .one(let id):
      require("cookie = ? AND inode = ? AND boot = ?", cookie(id), inode(id), .text(machine.boot))
    case .inode(let number): require("inode = ?", .integer(Int64(number)))
    case .named(let name): require("name = ?", .text(name))
    }
    let condition = conditions.isEmpty ? "" : "WHERE " + conditions.joined(separator: " AND ")
    values.append(.integer(Int64(max(1, min(filter.limit, HistoryFilter.most)))))
    let sql = "SELECT \(Self.recordColumns) FROM record \(condition) ORDER BY id DESC LIMIT ?"
    return try describing { () throws(Database.Failure) in
      try database.rows(sql, values, Self.record)
    }
  }

  private static func record(_ row: Database.Row) -> Record? {
    guard let kind = Record.Kind(rawValue: row.text(1)) else { return nil }
    var record = Record(
      kind, time: row.integer(2), tuner: row.text(5), tunable: row.text(6),
      namespace: NamespaceID(
        cookie: UInt64(bitPattern: row.integer(7)),
        inode: UInt32(truncatingIfNeeded: row.integer(8))),
      namespaceName: row.text(9), old: row.text(10), new: row.text(11), scenario: row.text(12),
      reason: row.text(13), outcome: row.text(14))
    record.id = row.integer(0)
    record.boot = row.text(3)
    record.repeats = Int(truncatingIfNeeded: row.integer(15))
    record.verdict = Record.Verdict(rawValue: row.text(16))
    record.effect = row.text(17)
    return record
  }

  // MARK: Keeping it small and safe

  /// How much history is kept.
  public struct Bounds: Sendable {
    /// Records of the daemon's own namespace, and of all others together: no
    /// container can push out what is known of the host.
    public var own = 10_000
    public var others = 10_000
    /// Microseconds: 90 days.
    public var age: Int64 = 90 * 86_400 * 1_000_000

    public init() {}
  }

  /// Deletes what is too old or too much, a part of it at a time; whether there
  /// is more.
  public func prune(_ bounds: Bounds = Bounds(), now: Int64 = WallClock.now()) throws(Failure)
    -> Bool
  {
    try describing { () throws(Database.Failure) in
      let ids = try database.rows(
        """
        SELECT id FROM record WHERE time < ?
          OR own = 1 AND id <= (SELECT id FROM record WHERE own = 1 ORDER BY id DESC LIMIT 1 OFFSET ?)
          OR own = 0 AND id <= (SELECT id FROM record WHERE own = 0 ORDER BY id DESC LIMIT 1 OFFSET ?)
        LIMIT 1000
        """,
        [
          .integer(now - bounds.age), .integer(Int64(bounds.own)), .integer(Int64(bounds.others)),
        ]
      ) { $0.integer(0) }
      guard !ids.isEmpty else { return false }
      try database.transaction { () throws(Database.Failure) in
        for id in ids { try database.run("DELETE FROM record WHERE id = ?", .integer(id)) }
      }
      return ids.count == 1000
    }
  }

  /// Brings what was written since the last time to the disk, and waits for it.
  public func synchronize() throws(Failure) {
    try describing { () throws(Database.Failure) in
      try database.execute("PRAGMA wal_checkpoint(PASSIVE)")
    }
  }

  /// The same, on a thread that ends with it: the caller does not wait.
  public func synchronizeAside() throws(Failure) {
    guard isShared else { return try synchronize() }
    let path = Unmanaged.passRetained(PathBox(path))
    var thread = pthread_t()
    let code = pthread_create(
      &thread, nil,
      { argument in
        guard let argument else { return nil }
        let path = Unmanaged<PathBox>.fromOpaque(argument).takeRetainedValue().path
        // What is not done now is done the next time.
        try? Database(path: path).execute("PRAGMA wal_checkpoint(PASSIVE)")
        return nil
      }, path.toOpaque())
    if code != 0 { path.release() } else { pthread_detach(thread) }
  }

  private final class PathBox: Sendable {
    let path: String
    init(_ path: String) { self.path = path }
  }
}
