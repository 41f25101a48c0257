public import Kernel
public import State

/// What a tuner is made of: the tunables that it owns, the signals that it
/// needs, and how it decides.
///
/// A value of the type is the state for one namespace, or for the machine. It
/// does no input or output: a recorded stream of observations gives the same
/// adjustments again.
public protocol Policy: Sendable {
  /// An event in the policy's terms.
  associatedtype Observation: Sendable

  /// Short, in lower case, with dashes: `tcp-buffer`.
  static var name: String { get }
  static var tunables: [Tunable] { get }
  /// What one state of the policy is about: one namespace, or what all
  /// namespaces share.
  static var scope: Tunable.Scope { get }
  /// In `bpf/`, the enum of its scenarios and that of its event values, with
  /// their enumerators in Swift; a test holds them against the BPF object.
  static var mirrors: [String: [String: Int64]] { get }
  static var signals: [Signal] { get }
  /// Kinds of adjustment that have to be allowed by name.
  static var risks: [Risk] { get }
  /// Whether its BPF programs change sockets by themselves, where the gate is open
  /// (bpf/gate.h).
  static var actsByItself: Bool { get }
  /// An iterator that is run once in every namespace that exists when the
  /// daemon starts, for sockets older than it.
  static var adoption: Signal? { get }

  /// A program that reports on request how things stand, by events as others;
  /// run inside the namespace that the state is about. One for the machine that
  /// is an iterator is run in every namespace.
  static var request: Signal? { get }

  /// The array map, with one entry, in which its BPF programs read `table`.
  static var tableName: String? { get }
  /// What the programs have to know: written whenever it has changed after a
  /// decision or its outcome. Only where `scope` is the machine.
  var table: [UInt32] { get }

  /// Whether `look()` says how things stand, in place of a request.
  static var looks: Bool { get }
  /// Reads how things stand, on the daemon's thread and in its own namespace: at
  /// the start, when `recheck` has passed, and at the interval of a poll. Throws
  /// what the kernel's files make of it.
  static func look() throws -> Observation
  /// What a poll begins with in a namespace, where observations are completed
  /// inside: every namespace is polled then. Nil when there is nothing to poll.
  static func poll(_ namespace: NamespaceID) -> Observation?

  init(learningRate: LearningRate)

  /// What an administrator should know of in the end, a line each.
  var findings: [String] { get }

  /// How long it waits before it has `request` run or looks, though no event may come:
  /// asked after each decision. Nil for not at all, so that no timer runs.
  var recheck: Duration? { get }

  /// Nil when the event is not one of this policy.
  static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation?

  /// Whether observations are completed inside the namespace that they came from.
  static var readsInside: Bool { get }
  /// Adds what the event does not carry and has to be read from files, on the
  /// daemon's thread.
  static func complete(_ observation: inout Observation) throws

  /// What a survey reads in each namespace, on the thread that is inside.
  static func survey(_ observation: Observation) throws -> Int64
  /// The sum of what a survey has read, before the observation comes again.
  mutating func learn(surveyed sum: Int64, for observation: Observation)

  /// What to change, or why nothing, for `--verbose`.
  mutating func decide(_ observation: Observation) -> Decision

  /// What a daemon before this one had changed and still holds its value. The
  /// time is of the kernel's monotonic clock, in nanoseconds.
  mutating func recall(_ holding: Holding, at time: UInt64)

  /// The namespace has ended; for what a state of the machine knows of it.
  mutating func forget(_ namespace: NamespaceID)

  /// What became of an adjustment, so that the next decision knows.
  mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome)
}

extension Policy {
  public static var scope: Tunable.Scope { .perNamespace }
  public static var risks: [Risk] { [] }
  public static var actsByItself: Bool { false }
  public static var adoption: Signal? { nil }
  public static var request: Signal? { nil }
  public static var tableName: String? { nil }
  public var table: [UInt32] { [] }
  public static var looks: Bool { false }
  public static func look() throws -> Observation { throw LooksAtNothing() }
  public static func poll(_ namespace: NamespaceID) -> Observation? { nil }
  public var recheck: Duration? { nil }
  public static var readsInside: Bool { false }
  public static func complete(_ observation: inout Observation) throws {}
  public var findings: [String] { [] }
  public static func survey(_ observation: Observation) throws -> Int64 { 0 }
  public mutating func learn(surveyed sum: Int64, for observation: Observation) {}
  public mutating func recall(_ holding: Holding, at time: UInt64) {}
  public mutating func forget(_ namespace: NamespaceID) {}
  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {}
}

/// A policy was asked to look that says it does not.
struct LooksAtNothing: Error {}

/// What a policy makes of an observation.
public enum Decision: Sendable, Equatable {
  case adjust([Adjustment])
  /// Nothing to change, and why.
  case leave(String)
  /// More is needed and must not be had: the administrator should know why,
  /// but not more than once a minute about the same thing.
  case hold(String, about: String)
  /// Nothing to change, but its programs have done something by themselves in
  /// the namespace of the event.
  case note(String, about: String)
  /// Not before every namespace has been asked.
  case survey
}

/// How far one step may go: 0, the most cautious, to 4, the default.
public struct LearningRate: Sendable, Equatable {
  public static let allowed = 0...4
  public let level: Int

  /// Nil outside of `allowed`.
  public init?(_ level: Int) {
    guard Self.allowed.contains(level) else { return nil }
    self.level = level
  }

  public static let standard = LearningRate(fastest: ())
  private init(fastest: ()) { level = Self.allowed.upperBound }

  /// The most by which one step multiplies a size, where `most` is what the
  /// evidence would allow: 4 takes it whole, each level below half the way in
  /// powers of two, and 0 a quarter more at a time.
  public func growth(most: Double) -> Double {
    level == 0 ? min(most, 1.25) : max(1.25, most / Double(1 << (4 - level)))
  }
}
