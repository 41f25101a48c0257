public import Kernel

/// What the rest of the daemon has to know of a tuner, whether it is built in or
/// comes from outside.
public struct TunerDescription: Sendable {
  public let name: String
  public let tunables: [Tunable]
  /// Kinds of adjustment that have to be allowed by name.
  public let risks: [Risk]

  public init(name: String, tunables: [Tunable], risks: [Risk] = []) {
    self.name = name
    self.tunables = tunables
    self.risks = risks
  }
}

extension Policy {
  public static var description: TunerDescription {
    TunerDescription(name: name, tunables: tunables, risks: risks)
  }
}
