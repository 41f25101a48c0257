public import Kernel

/// What a policy wants changed, and why.
public struct Adjustment: Sendable, Equatable {
  public let tunable: Tunable
  /// Where, if not in the namespace that the event came from.
  public let namespace: NamespaceID?
  /// What the decision assumed to be in force.
  public let assumed: SysctlPart
  /// What that part of the value should become.
  public let wanted: SysctlPart
  /// What happened, by name: `need to increase TCP send buffer`.
  public let scenario: String
  /// The evidence, in words and numbers.
  public let reason: String
  /// What has to be allowed by name before it is more than advice.
  public let risk: Risk?
  /// How its effect shows; nil where that is not measured.
  public var measure: Measure?

  /// One that is about the largest number of the value.
  public init(
    _ tunable: Tunable, from assumed: Int64, to wanted: Int64, in namespace: NamespaceID? = nil,
    scenario: String, reason: String, risk: Risk? = nil
  ) {
    self.init(
      tunable, from: .maximum(assumed), to: .maximum(wanted), in: namespace, scenario: scenario,
      reason: reason, risk: risk)
  }

  public init(
    _ tunable: Tunable, from assumed: SysctlPart, to wanted: SysctlPart,
    in namespace: NamespaceID? = nil, scenario: String, reason: String, risk: Risk? = nil
  ) {
    self.tunable = tunable
    self.namespace = namespace
    self.assumed = assumed
    self.wanted = wanted
    self.scenario = scenario
    self.reason = reason
    self.risk = risk
  }
}

/// A kind of adjustment that can break something. It is only advised unless an
/// administrator allows it with `--allow-risky`.
public struct Risk: Sendable, Hashable {
  /// `neigh.drop_gratuitous_arp`: the tuner's name comes first.
  public let name: String
  /// What it may break, to follow "it".
  public let warning: String

  public init(_ name: String, warning: String) {
    self.name = name
    self.warning = warning
  }
}

/// What became of an adjustment.
public enum Outcome: Sendable, Equatable {
  /// Written, at that time in nanoseconds of CLOCK_MONOTONIC.
  case applied(old: SysctlValue, new: SysctlValue, at: UInt64)
  /// Dry run: nothing was written.
  case advised(old: SysctlValue, new: SysctlValue)
  case refused(Refusal)
}

/// Why an adjustment was not carried out.
public enum Refusal: Error, Sendable, Equatable, CustomStringConvertible {
  /// An administrator has set a tunable of this tuner here.
  case administrator(String)
  /// The tuner was turned off here by command.
  case turnedOff
  /// The tunable no longer holds what the decision assumed: most often the
  /// event is older than the last change.
  case stale(current: SysctlValue)
  case outOfBounds(ClosedRange<Int64>)
  /// This kernel or this namespace does not have the tunable.
  case unavailable
  case namespaceGone
  /// The namespace is one of those that are left untouched.
  case heldOut(current: SysctlValue)
  /// The same step was taken back, and is not tried again yet.
  case setback(String)
  case failed(String)

  public var description: String {
    switch self {
    case .administrator(let who): who
    case .turnedOff: "the tuner was turned off here by bpftune disable"
    case .stale(let current): "it is \(current) by now"
    case .outOfBounds(let bounds):
      "the kernel takes \(bounds.lowerBound) to \(bounds.upperBound) only"
    case .unavailable: "it does not exist here"
    case .namespaceGone: "the namespace is gone"
    case .heldOut(let current): "the namespace is held out, it stays \(current)"
    case .setback(let why): why
    case .failed(let error): error
    }
  }
}
