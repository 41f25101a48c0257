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
  /// What leads from each version of the file to the next; whoever changes the
  /// tables adds a step at the end.
  static let steps = [schema]

  public let path: String
  let database: Database
  public let machine: Machine
  /// Syncing is left to a thread of its own; else done here, when it is quiet.
  let isShared: Bool

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
    } catch  where !error.isDamage {
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
    try upgrade(database, by: steps)
    // A file with other columns fails here, not later.
    _ = try database.rows("SELECT \(holdingColumns) FROM holding LIMIT 1") { _ in 0 }
    _ = try database.rows("SELECT \(holdingColumns) FROM learned LIMIT 1") { _ in 0 }
    _ = try database.rows("SELECT \(recordColumns) FROM record LIMIT 1") { _ in 0 }
    _ = try database.rows("SELECT key, value FROM meta LIMIT 1") { _ in 0 }
  }

  /// Takes the steps that the file has not seen yet, each as a whole.
  static func upgrade(_ database: Database, by steps: [String]) throws(Database.Failure) {
    let version = try database.rows("PRAGMA user_version") { $0.integer(0) }.first ?? 0
    guard let seen = Int(exactly: version), (0...steps.count).contains(seen) else {
      throw Database.Failure(
        code: SQLITE_CORRUPT,
        description: "its version is \(version), and this bpftune knows \(steps.count)")
    }
    for (number, step) in steps.enumerated().dropFirst(seen) {
      do {
        try database.execute("BEGIN;" + step + "PRAGMA user_version = \(number + 1); COMMIT;")
      } catch {
        try? database.execute("ROLLBACK")
        throw error
      }
    }
  }

  private static let holdingColumns =
    "cookie, inode, tunable, boot, own, name, tuner, original, written, previous, since, changes,"
    + " scenario, reason, risk"
  static let recordColumns =
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
          cookie: UInt64(bitPattern: row.integer(0)),
          inode: UInt32(truncatingIfNeeded: row.integer(1))),
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

  // MARK: Helpers

  func cookie(_ id: NamespaceID) -> Database.Value { .integer(Int64(bitPattern: id.cookie)) }
  func inode(_ id: NamespaceID) -> Database.Value { .integer(Int64(id.inode)) }

  func describing<R>(_ body: () throws(Database.Failure) -> R) throws(Failure) -> R {
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
