import CShims
import Glibc
import Kernel

/// `state.db`: what the daemon changed and still holds, what it learned, and
/// its history. In one thread's hands.
///
/// The file is in write-ahead mode and written without a sync: what a process
/// has written outlives it. A loss of power may take the last seconds, and with
/// them goes what they were about: after a boot the kernel has its own values.
public final class StateFile {
  public struct Failure: Error, Sendable, CustomStringConvertible {
    public let description: String
    /// Not what it should be: to be set aside.
    public let isDamage: Bool
  }

  /// A holding as the file has it. Which tunable a name stands for is known
  /// above.
  public struct Row: Sendable, Equatable {
    public var boot = ""
    /// Of the namespace that the daemon was started in.
    public var own = false
    public var namespace: NamespaceID
    public var namespaceName = ""
    public var tunable: String
    public var tuner: String
    public var original: String
    public var written: String
    public var previous: String
    public var since: Int64
    public var changes: Int64
    public var scenario: String
    public var reason: String
    public var risk: String

    public init(
      namespace: NamespaceID, tunable: String, tuner: String, original: String, written: String,
      previous: String, since: Int64, changes: Int64, scenario: String, reason: String,
      risk: String
    ) {
      self.namespace = namespace
      self.tunable = tunable
      self.tuner = tuner
      self.original = original
      self.written = written
      self.previous = previous
      self.since = since
      self.changes = changes
      self.scenario = scenario
      self.reason = reason
      self.risk = risk
    }
  }

  static let name = "state.db"
  private static let version: Int64 = 1

  public let path: String
  private let database: Database
  public let machine: Machine
  /// Syncing is left to a thread of its own; else done here, when it is quiet.
  private let isShared: Bool

  /// Opens the file in a directory that is made if it is not there. What is
  /// damaged is set aside, and `notice` told of it.
  public static func open(
    directory: String, machine: Machine = .current(), notice: (String) -> Void = { _ in }
  ) throws(Failure) -> StateFile {
    guard mkdir(directory, 0o700) == 0 || errno == EEXIST else {
      throw Failure(
        description: "cannot create \(directory): \(String(cString: strerror(errno)))",
        isDamage: false)
    }
    let path = directory + "/" + name
    do {
      return try StateFile(path: path, machine: machine)
    } catch {
      guard error.isDamage else { throw error }
      let aside = path + ".damaged"
      guard rename(path, aside) == 0 else {
        throw Failure(
          description: "\(path) is damaged (\(error)) and cannot be set aside:"
            + " \(String(cString: strerror(errno)))", isDamage: false)
      }
      for suffix in ["-wal", "-shm"] { unlink(path + suffix) }
      notice(
        "\(path) is damaged (\(error)): set aside as \(aside), and begun anew;"
          + " what was changed before is not known any more")
      return try StateFile(path: path, machine: machine)
    }
  }

  private init(path: String, machine: Machine) throws(Failure) {
    self.path = path
    self.machine = machine
    let fd = Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard fd >= 0 else {
      throw Failure(
        description: "cannot open \(path): \(String(cString: strerror(errno)))", isDamage: false)
    }
    close(fd)
    do {
      (database, isShared) = try Self.connect(path)
      try Self.prepare(database)
    } catch {
      throw Self.failure(error)
    }
  }

  /// Two connections need a file of shared memory beside; where that cannot be
  /// had (a full disk), one that has the file for itself still works.
  private static func connect(_ path: String) throws(Database.Failure) -> (Database, Bool) {
    do {
      return (try connect(path, shared: true), true)
    } catch where !error.isDamage {
      return (try connect(path, shared: false), false)
    }
  }

  private static func connect(_ path: String, shared: Bool) throws(Database.Failure) -> Database {
    let database = try Database(path: path)
    if !shared { try database.execute("PRAGMA locking_mode = EXCLUSIVE") }
    try database.execute(
      """
      PRAGMA cell_size_check = ON; PRAGMA cache_size = -512; PRAGMA temp_store = MEMORY;
      PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;
      PRAGMA journal_size_limit = 4194304;
      """)
    return database
  }

  private static func prepare(_ database: Database) throws(Database.Failure) {
    let verdicts = try database.rows("PRAGMA quick_check(1)") { $0.text(0) }
    guard verdicts == ["ok"] else {
      throw Database.Failure(code: SQLITE_CORRUPT, description: verdicts.first ?? "no verdict")
    }
    let version = try database.rows("PRAGMA user_version") { $0.integer(0) }.first
    switch version {
    case 0:
      try database.execute("BEGIN;" + schema + "PRAGMA user_version = \(Self.version); COMMIT;")
    case Self.version: break
    default:
      throw Database.Failure(
        code: SQLITE_CORRUPT, description: "its version is \(version ?? 0), not \(Self.version)")
    }
    // A file with other columns fails here, not later.
    _ = try database.rows("SELECT \(holdingColumns) FROM holding LIMIT 1") { _ in 0 }
    _ = try database.rows("SELECT \(holdingColumns) FROM learned LIMIT 1") { _ in 0 }
    _ = try database.rows("SELECT \(recordColumns) FROM record LIMIT 1") { _ in 0 }
    _ = try database.rows("SELECT key, value FROM meta LIMIT 1") { _ in 0 }
  }

  private static let holdingColumns =
    "cookie, inode, tunable, boot, own, name, tuner, original, written, previous, since, changes,"
    + " scenario, reason, risk"
  private static let recordColumns =
    "id, kind, time, boot, own, tuner, tunable, cookie, inode, name, old, new, scenario, reason,"
    + " outcome, repeats, verdict, effect"

  private static let schema = """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
    CREATE TABLE holding (\(holdingColumns), PRIMARY KEY (cookie, inode, tunable)) WITHOUT ROWID;
    CREATE TABLE learned (\(holdingColumns), PRIMARY KEY (cookie, inode, tunable)) WITHOUT ROWID;
    CREATE TABLE record (id INTEGER PRIMARY KEY, \(recordColumns.dropFirst("id, ".count)));
    """

  // MARK: Holdings

  /// Notes what is about to be written, and the record of it, in one go.
  public func save(_ row: Row, _ record: Record) throws(Failure) {
    try describing { () throws(Database.Failure) in
      try database.transaction { () throws(Database.Failure) in
        try put(row, into: "holding")
        try put(record, own: row.own)
      }
    }
  }

  public func save(_ row: Row) throws(Failure) {
    try describing { () throws(Database.Failure) in try put(row, into: "holding") }
  }

  public func remove(_ namespace: NamespaceID, tunable: String) throws(Failure) {
    try describing { () throws(Database.Failure) in
      try database.run(
        "DELETE FROM holding WHERE cookie = ? AND inode = ? AND tunable = ?",
        cookie(namespace), inode(namespace), .text(tunable))
    }
  }

  /// Notes again all that is held, and records that could not be stored.
  public func saveAll(_ rows: [Row], _ records: [(Record, own: Bool)]) throws(Failure) {
    try describing { () throws(Database.Failure) in
      try database.transaction { () throws(Database.Failure) in
        try database.run("DELETE FROM holding")
        for row in rows { try put(row, into: "holding") }
        for record in records { try put(record.0, own: record.own) }
        try set("machine", machine.text)
        try set("running", machine.boot)
      }
    }
  }

  /// What is held in this boot.
  public func holdings() throws(Failure) -> [Row] {
    try describing { () throws(Database.Failure) in
      try read("holding").filter { $0.boot == machine.boot }
    }
  }

  private func put(_ row: Row, into table: String) throws(Database.Failure) {
    try database.run(
      table == "learned"
        ? "INSERT OR REPLACE INTO learned VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
        : "INSERT OR REPLACE INTO holding VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
      cookie(row.namespace), inode(row.namespace), .text(row.tunable), .text(machine.boot),
      .integer(row.own ? 1 : 0), .text(row.namespaceName), .text(row.tuner), .text(row.original),
      .text(row.written), .text(row.previous), .integer(row.since), .integer(row.changes),
      .text(row.scenario), .text(row.reason), .text(row.risk))
  }

  private func read(_ table: String) throws(Database.Failure) -> [Row] {
    try database.rows("SELECT \(Self.holdingColumns) FROM \(table) LIMIT 100000") { row in
      var found = Row(
        namespace: NamespaceID(
          cookie: UInt64(bitPattern: row.integer(0)), inode: UInt32(truncatingIfNeeded: row.integer(1))),
        tunable: row.text(2), tuner: row.text(6),
        original: row.text(7), written: row.text(8), previous: row.text(9), since: row.integer(10),
        changes: row.integer(11), scenario: row.text(12), reason: row.text(13), risk: row.text(14))
      found.boot = row.text(3)
      found.own = row.integer(4) == 1
      found.namespaceName = row.text(5)
      return found
    }
  }

  // MARK: Starts, stops and boots

  /// What a daemon finds when it starts.
  public struct Start: Sendable {
    /// The one before ended without a word, in this boot.
    public var crashed = false
    /// Records after this one are from since the last start in good order.
    public var session: Int64 = 0
    /// Why the file cannot be written; nil when it can.
    public var trouble: Failure?

    public init() {}
  }

  /// The first thing that a daemon does. After a new boot, what was held in
  /// the daemon's own namespace becomes what was learned, if the machine is
  /// the same, and the rest is forgotten.
  public func start() throws(Failure) -> Start {
    var start = Start()
    try describing { () throws(Database.Failure) in
      start.crashed = try meta("running") == machine.boot
      start.session = try meta("session").flatMap { Int64($0) } ?? 0
    }
    do {
      try describing { () throws(Database.Failure) in
        try database.transaction { () throws(Database.Failure) in
          try turnOver()
          guard !start.crashed else { return }
          start.session = try lastID()
          try set("session", "\(start.session)")
          try set("running", machine.boot)
        }
      }
    } catch {
      if error.isDamage { throw error }
      start.trouble = error
    }
    return start
  }

  private func turnOver() throws(Database.Failure) {
    let before = try meta("machine").flatMap { Machine(text: $0) }
    guard before?.boot != machine.boot else { return }
    if let before, machine.isLike(before) {
      for row in try read("holding") where row.own && row.boot == before.boot {
        try put(row, into: "learned")
      }
    } else {
      try database.run("DELETE FROM learned")
    }
    try database.run("DELETE FROM holding WHERE boot <> ?", .text(machine.boot))
    try set("machine", machine.text)
  }

  /// The last thing: all is in order.
  public func stop() throws(Failure) {
    try describing { () throws(Database.Failure) in
      try database.run("DELETE FROM meta WHERE key = 'running'")
    }
    try synchronize()
  }

  /// What these tuners learned in earlier boots; each is given out once.
  public func takeLearned(by tuners: Set<String>) throws(Failure) -> [Row] {
    try describing { () throws(Database.Failure) in
      let rows = try read("learned").filter { tuners.contains($0.tuner) }
      for row in rows {
        try database.run("DELETE FROM learned WHERE tunable = ?", .text(row.tunable))
      }
      return rows
    }
  }

  private func meta(_ key: String) throws(Database.Failure) -> String? {
    try database.rows("SELECT value FROM meta WHERE key = ?", [.text(key)]) { $0.text(0) }.first
  }

  private func set(_ key: String, _ value: String) throws(Database.Failure) {
    try database.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", .text(key), .text(value))
  }

  // MARK: Records

  /// Stores a record, or what became of it.
  public func save(_ record: Record, own: Bool) throws(Failure) {
    try describing { () throws(Database.Failure) in try put(record, own: own) }
  }

  /// The largest number that a record has.
  public func lastRecord() throws(Failure) -> Int64 {
    try describing { () throws(Database.Failure) in try lastID() }
  }

  private func lastID() throws(Database.Failure) -> Int64 {
    try database.rows("SELECT max(id) FROM record") { $0.integer(0) }.first ?? 0
  }

  private func put(_ record: Record, own: Bool) throws(Database.Failure) {
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
    if let tunable = filter.tunable { require("tunable = ?", .text(tunable)) }
    if !filter.kinds.isEmpty {
      let kinds = filter.kinds.map { "'\($0.rawValue)'" }.sorted().joined(separator: ",")
      require("kind IN (\(kinds))")
    }
    switch filter.namespace {
    case .all: break
    case .one(let id): require("cookie = ? AND inode = ?", cookie(id), inode(id))
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
        cookie: UInt64(bitPattern: row.integer(7)), inode: UInt32(truncatingIfNeeded: row.integer(8))),
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
  public func prune(_ bounds: Bounds = Bounds(), now: Int64 = WallClock.now()) throws(Failure) -> Bool {
    try describing { () throws(Database.Failure) in
      let ids = try database.rows(
        """
        SELECT id FROM record WHERE time < ?
          OR own = 1 AND id <= (SELECT id FROM record WHERE own = 1 ORDER BY id DESC LIMIT 1 OFFSET ?)
          OR own = 0 AND id <= (SELECT id FROM record WHERE own = 0 ORDER BY id DESC LIMIT 1 OFFSET ?)
        LIMIT 500
        """,
        [
          .integer(now - bounds.age), .integer(Int64(bounds.own)), .integer(Int64(bounds.others)),
        ]) { $0.integer(0) }
      guard !ids.isEmpty else { return false }
      try database.transaction { () throws(Database.Failure) in
        for id in ids { try database.run("DELETE FROM record WHERE id = ?", .integer(id)) }
      }
      return ids.count == 500
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

  // MARK: Helpers

  private func cookie(_ id: NamespaceID) -> Database.Value { .integer(Int64(bitPattern: id.cookie)) }
  private func inode(_ id: NamespaceID) -> Database.Value { .integer(Int64(id.inode)) }

  private func describing<R>(_ body: () throws(Database.Failure) -> R) throws(Failure) -> R {
    do {
      return try body()
    } catch {
      throw Self.failure(error)
    }
  }

  private static func failure(_ failure: Database.Failure) -> Failure {
    Failure(description: failure.description, isDamage: failure.isDamage)
  }
}
