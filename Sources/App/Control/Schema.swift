/// What the control socket answers. Each stands in bpftune-control(5); whoever
/// removes or renames a field, or gives it another meaning, increases `schema`.
enum Reply {
  static let schema = 1

  struct Problem: Codable {
    var schema = Reply.schema
    let error: String
  }

  /// `GET /v1`.
  struct Index: Codable {
    var schema = Reply.schema
    let version: String
    let paths: [String]
  }

  struct Namespace: Codable, Hashable, Sendable {
    let inode: UInt32
    /// 0 where the kernel tells none.
    let cookie: UInt64
    /// Of its mount or of a process inside; `init` for the host's; may be empty.
    let name: String
  }

  /// Something that happened: what the state keeps.
  struct Record: Codable, Sendable {
    /// Grows; 0 for one that is not kept.
    let id: Int64
    let time: String
    /// `change`, `advice`, `refusal`, `administrator`, `rollback`, `withdrawal`,
    /// `hold-out`, `note`; there may be others.
    let kind: String
    let tuner: String
    let tunable: String
    let namespace: Namespace
    let old: String
    let new: String
    let scenario: String
    /// The evidence; for an administrator's write, who it was.
    let reason: String
    /// Empty when it went as intended.
    let outcome: String
    /// How many like it came before that have no record of their own.
    let repeats: Int
    /// `kept`, `worse` or `unclear`; nil where nothing was measured yet.
    let verdict: String?
    /// What was measured.
    let effect: String
  }

  /// `GET /v1/status`.
  struct Status: Codable, Sendable {
    struct Hooks: Codable, Sendable {
      let signals: Int
      /// Not by the first choice.
      let degraded: Int
      let missing: Int
    }

    struct Events: Codable, Sendable {
      let received: UInt64
      let folded: UInt64
      let lostRingFull: UInt64
      let lostStreamFull: UInt64
      let malformed: UInt64
    }

    struct Memory: Codable, Sendable {
      let anonymousBytes: Int64
      let residentBytes: Int64
    }

    var schema = Reply.schema
    let version: String
    let pid: Int32
    let started: String
    let uptimeSeconds: Int64
    /// `tuning` or `dry-run`.
    let mode: String
    /// The share of namespaces that is left untouched, 0 to 1.
    let holdOut: Double
    let kernel: String
    let cgroup: String
    let namespaces: Int
    let hooks: Hooks
    let signals: [Signal]
    let tuners: [Tuner]
    let events: Events
    let memory: Memory
    /// Where history is kept.
    let state: String
    /// The newest last.
    let recent: [Record]
  }

  /// A signal and the hook that it got.
  struct Signal: Codable, Sendable {
    struct Refusal: Codable, Sendable {
      let hook: String
      let reason: String
    }

    /// The tuner, or `daemon`.
    let owner: String
    let signal: String
    let hook: String?
    let refused: [Refusal]
  }

  struct Tuner: Codable, Sendable {
    struct Disabled: Codable, Sendable {
      let namespace: Namespace
      let why: String
    }

    let name: String
    /// `enabled`, `disabled`, or `partly`: disabled in some namespaces.
    let state: String
    /// Why a tuner from outside does not run; nil where it does.
    let trouble: String?
    let disabled: [Disabled]
    /// In how many namespaces in all; `disabled` shows the first of them.
    let disabledCount: Int
    let tunables: [String]
    let risks: [String]
    let events: UInt64
    let folded: UInt64
    let changes: UInt64
    let advice: UInt64
    let refusals: UInt64
    /// Changes whose effect was measured.
    let kept: Int
    let worse: Int
    let unclear: Int
    /// The rate after by the rate before, the median; nil without any.
    let gain: Double?
    let gainHeldOut: Double?
  }

  /// `GET /v1/tuners`.
  struct Tuners: Codable, Sendable {
    var schema = Reply.schema
    let tuners: [Tuner]
  }

  struct TunableState: Codable, Sendable {
    let tunable: String
    let namespace: Namespace
    let tuners: [String]
    let current: String?
    /// Before the first change; the current one where there was none.
    let original: String?
    /// `kernel` (nobody is known to have set it), `bpftune` or `administrator`.
    let owner: String
    let changes: Int
  }

  /// `GET /v1/tunables`.
  struct Tunables: Codable, Sendable {
    var schema = Reply.schema
    let tunables: [TunableState]
    /// Ask again with `after=` this for those that did not fit.
    let next: String?
  }

  /// `GET /v1/history`.
  struct History: Codable, Sendable {
    var schema = Reply.schema
    /// The newest first.
    let records: [Record]
    /// Ask again with `before=` this for older ones.
    let next: String?
  }

  /// `GET /v1/explain`.
  struct Explanation: Codable, Sendable {
    struct Place: Codable, Sendable {
      let state: TunableState
      /// One sentence: why it has this value.
      let why: String
      /// The commands that bring it back.
      let undo: [String]
      let records: [Record]
    }

    var schema = Reply.schema
    let tunable: String
    let places: [Place]
  }

  /// A value that was found for a tunable of the host.
  struct Finding: Codable, Sendable {
    let tunable: String
    let value: String
    let original: String
    let reason: String
    let time: String
    /// `applied` or `advised`.
    let kind: String
    let namespace: Namespace
  }

  /// `GET /v1/recommend`.
  struct Recommendations: Codable, Sendable {
    var schema = Reply.schema
    let host: String
    let kernel: String
    let time: String
    let findings: [Finding]
  }

  /// What would be done, or was.
  struct Step: Codable, Sendable {
    let tunable: String
    let namespace: Namespace
    let from: String
    let to: String
    let why: String
  }

  /// `GET /v1/simulate`.
  struct Simulation: Codable, Sendable {
    var schema = Reply.schema
    /// By `rollback`.
    let undone: [Step]
    /// Without dry run, or with a risk allowed.
    let applied: [Step]
  }

  /// `POST /v1/rollback`.
  struct RolledBack: Codable, Sendable {
    var schema = Reply.schema
    let restored: [Step]
    let left: [Step]
  }

  /// `POST /v1/tuners/NAME/enable` and `disable`.
  struct Switched: Codable, Sendable {
    var schema = Reply.schema
    let tuner: String
    /// Nil: everywhere.
    let namespace: Namespace?
    let enabled: Bool
    /// In how many namespaces this made a difference.
    let changed: Int
  }

  struct Difference: Codable, Sendable {
    let tunable: String
    let namespace: Namespace
    let expected: String
    let found: String?
    let problem: String
  }

  /// `GET /v1/verify`.
  struct Verification: Codable, Sendable {
    var schema = Reply.schema
    let checked: Int
    let differences: [Difference]
    /// Every tunable holds what the daemon wrote.
    let holds: Bool
  }
}
