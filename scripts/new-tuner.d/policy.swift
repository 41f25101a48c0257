public import Kernel

/// Lets sockets join more multicast groups where the limit refuses them.
public struct @Type@: Policy {
  public static let name = "@name@"

  /// `igmp_max_memberships` in net/ipv4/sysctl_net_ipv4.c.
  static let limit = Tunable(
    "net.ipv4.igmp_max_memberships", .scalar, .perNamespace, bounds: 0...Int64(Int32.max))
  public static let tunables = [limit]

  /// No further than this: the kernel looks through a socket's groups one by one.
  static let most: Int64 = 1280

  public static let signals = [
    Signal("socket joins a group", [hook("sys_enter_setsockopt", "@id@_join")]),
    Signal("group refused", [hook("sys_exit_setsockopt", "@id@_joined")]),
  ]

  private static func hook(_ tracepoint: String, _ program: String) -> Hook {
    Hook(
      .tracepoint(category: "syscalls", name: tracepoint), "tracepoint/syscalls/\(tracepoint)",
      object: "@id@", program: program)
  }

  /// `enum @id@_scenario` in bpf/@id@.bpf.c.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case refused = 1

    var name: String { "need to allow more multicast groups" }
  }

  /// `enum @id@_value` in bpf/@id@.bpf.c.
  enum Value: Int, CaseIterable {
    case limit
  }

  public static let mirrors: [String: [String: Int64]] = [
    "@id@_scenario": ["@ID@_REFUSED": Scenario.refused.rawValue],
    "@id@_value": ["@ID@_LIMIT": Int64(Value.limit.rawValue)],
  ]

  public struct Observation: Sendable {
    public let scenario: Scenario
    /// In force when a join was refused.
    public let limit: Int64
    /// Joins that were refused, at least.
    public let refused: Int64
  }

  private let learningRate: LearningRate

  public init(learningRate: LearningRate) { self.learningRate = learningRate }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard case .values(let values) = event.payload,
      let scenario = Scenario(rawValue: Int64(event.scenario))
    else { return nil }
    return Observation(
      scenario: scenario, limit: values[Value.limit.rawValue], refused: Int64(event.folded) + 1)
  }

  public mutating func decide(_ seen: Observation) -> Decision {
    guard seen.limit < Self.most else {
      return .hold("a socket wants more than \(Self.most) multicast groups", about: "most")
    }
    let wanted = Double(seen.limit) * learningRate.growth(most: 2)
    return .adjust([
      Adjustment(
        Self.limit, from: seen.limit, to: min(max(Int64(wanted), seen.limit + 1), Self.most),
        scenario: seen.scenario.name,
        reason: "refused a socket its multicast group, \(seen.refused) times, for it is in"
          + " \(seen.limit) already")
    ])
  }
}
