public import Kernel

/// One line of the daemon's history: something that was changed, advised or
/// refused, or that an administrator wrote.
public struct Record: Sendable, Equatable, Identifiable {
  public enum Kind: String, Sendable, CaseIterable {
    /// The daemon set a tunable.
    case change
    /// It would have: dry run, or a risk that nobody allowed.
    case advice
    /// An adjustment that was not carried out.
    case refusal
    /// What the daemon would have done in a namespace that is left untouched.
    case holdOut = "hold-out"
    /// Someone else changed a tunable.
    case administrator
    /// The daemon restored the original.
    case rollback
    /// The daemon undid a change that made things worse.
    case withdrawal
    /// Something about the daemon's own state.
    case note
  }

  /// What an experiment found.
  public enum Verdict: String, Sendable, CaseIterable {
    /// The change stays.
    case kept
    /// It made things worse, and was undone.
    case worse
    /// Too little went on to tell, so the change stays.
    case unclear
  }

  /// Grows with each record of a state file; 0 before it is stored.
  public var id: Int64 = 0
  public var kind: Kind
  /// Microseconds since 1970.
  public var time: Int64
  /// Which boot of the machine: /proc/sys/kernel/random/boot_id.
  public var boot: String = ""
  public var tuner: String
  /// As sysctl(8) writes it: `net.ipv4.tcp_rmem`.
  public var tunable: String
  public var namespace: NamespaceID
  /// The namespace's name as people know it; empty when it has none.
  public var namespaceName: String = ""
  public var old: String
  public var new: String
  public var scenario: String = ""
  /// The evidence in words and numbers; for an administrator's write, who it was.
  public var reason: String = ""
  /// Empty when it went as intended; else why it was refused or failed.
  public var outcome: String = ""
  /// How many like it came since the one before and have no record of their own.
  public var repeats: Int = 0
  /// Nil as long as the experiment lasts, and where nothing was measured.
  public var verdict: Verdict? = nil
  /// What was measured, in words and numbers.
  public var effect: String = ""

  public init(
    _ kind: Kind, time: Int64, tuner: String, tunable: String, namespace: NamespaceID,
    namespaceName: String = "", old: String, new: String, scenario: String = "",
    reason: String = "", outcome: String = ""
  ) {
    self.kind = kind
    self.time = time
    self.tuner = tuner
    self.tunable = tunable
    self.namespace = namespace
    self.namespaceName = namespaceName
    self.old = old
    self.new = new
    self.scenario = scenario
    self.reason = reason
    self.outcome = outcome
  }
}

/// Which records to read.
public struct HistoryFilter: Sendable, Equatable {
  /// Microseconds since 1970.
  public var since: Int64?
  /// Only records with a smaller `id`: for the next page.
  public var before: Int64?
  public var kinds: Set<Record.Kind> = []
  public var tuner: String?
  public var tunable: String?
  public var namespace: Namespaces = .all
  /// At most this many, the newest; `1...most`.
  public var limit = 100

  public static let most = 1000

  public enum Namespaces: Sendable, Equatable {
    case all
    /// That of the daemon, in earlier boots too.
    case own
    /// In this boot: another one may have had its numbers before.
    case one(NamespaceID)
    /// By the number that people see.
    case inode(UInt32)
    case named(String)
  }

  public init() {}

  /// Whether it lets a record through, but for the limit.
  public func admits(_ record: Record) -> Bool {
    if let since, record.time < since { return false }
    if let before, record.id >= before { return false }
    if !kinds.isEmpty, !kinds.contains(record.kind) { return false }
    if let tuner, record.tuner != tuner { return false }
    if let tunable, record.tunable != tunable, !record.tunable.hasSuffix("." + tunable) {
      return false
    }
    switch namespace {
    case .all: return true
    // A record does not say it; the state file and its keeper know.
    case .own: return false
    case .one(let id): return record.namespace == id
    case .inode(let inode): return record.namespace.inode == inode
    case .named(let name): return record.namespaceName == name
    }
  }
}

/// A tunable that the daemon has changed and that still holds its value.
public struct Holding: Sendable, Equatable {
  public var namespace: NamespaceID
  /// As people know it; empty when it has no name.
  public var namespaceName = ""
  public var tunable: Tunable
  /// The tuner that changed it last.
  public var tuner: String
  /// Before the first change: what a roll back restores.
  public var original: SysctlValue
  /// What was written last, or is being written.
  public var written: SysctlValue
  /// What stood there before that write.
  public var previous: SysctlValue
  /// Microseconds since 1970: the first change.
  public var since: Int64
  /// How often it was written.
  public var changes: Int
  /// Of the last change.
  public var scenario: String
  public var reason: String
  /// What an administrator had to allow for it; empty when nothing.
  public var risk = ""

  public init(
    namespace: NamespaceID, tunable: Tunable, tuner: String, original: SysctlValue,
    written: SysctlValue, previous: SysctlValue, since: Int64, changes: Int, scenario: String,
    reason: String
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
  }
}

/// Whose value a tunable holds.
public enum Owner: Sendable, Equatable {
  /// Nobody changed it while the daemon watched.
  case kernel
  case us(Holding)
  /// The write that made it theirs.
  case administrator(Record)
}

/// Where the daemon's state is.
public enum Storage: Sendable, Equatable {
  case file(String)
  /// In memory only, and why.
  case memory(String)
}
