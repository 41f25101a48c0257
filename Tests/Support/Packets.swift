import Foundation

/// Two namespaces, joined by a veth pair. What comes to the right one is handed
/// to processor 1, by way of its backlog, and takes as long there as wanted.
public final class Packets: Sendable {
  public let left: TestNamespace
  public let right: TestNamespace
  private let receiver: Command
  private static let program = Products.path("packet-sender")
  private static let port = 5000
  /// The device by which packets come in.
  public static let device = "in0"

  /// `work`: how many divisions each packet costs where it comes in.
  public init(_ label: String, work: Int = 0) async throws {
    left = try await TestNamespace("\(label)-l")
    right = try await TestNamespace("\(label)-r")
    try await execute(
      "ip", "link", "add", "out0", "netns", left.name ?? "", "type", "veth", "peer", "name",
      Self.device, "netns", right.name ?? "")
    try await execute("ip", "link", "set", "out0", "addr", "02:00:00:00:00:01", netns: left.name)
    try await execute(
      "ip", "link", "set", Self.device, "addr", "02:00:00:00:00:02", netns: right.name)
    for (own, other, device, namespace) in [(1, 2, "out0", left), (2, 1, Self.device, right)] {
      let name = namespace.name
      try await execute("ip", "addr", "add", "10.9.0.\(own)/24", "dev", device, netns: name)
      try await execute("ip", "link", "set", device, "up", netns: name)
      try await execute(
        "ip", "neigh", "replace", "10.9.0.\(other)", "lladdr", "02:00:00:00:00:0\(other)", "dev",
        device, netns: name)
    }
    try await execute(
      "sh", "-c", "echo 2 > /sys/class/net/\(Self.device)/queues/rx-0/rps_cpus", netns: right.name)
    receiver = try Command(
      [Self.program, "take", "\(Self.port)", "\(work)"], netns: right.name)
    try await receiver.line(containing: "ready")
  }

  /// Sends bursts to the receiver, that long after one another; how many packets.
  public func send(bursts: Int, of size: Int, every pause: Duration = .zero) async throws -> Int {
    let microseconds = Int(pause / .microseconds(1))
    let output = try await execute(
      Self.program, "send", "10.9.0.2", "\(Self.port)", "\(bursts)", "\(size)", "\(microseconds)",
      netns: left.name, upTo: 60)
    return Int(output) ?? -1
  }

  /// Sends to the receiver until it is killed.
  public func flood() throws -> Command {
    try Command(
      [Self.program, "send", "10.9.0.2", "\(Self.port)", "1", "1000000000", "0"],
      netns: left.name)
  }

  /// Sends single packets to a port where nobody is; how many.
  public func sendSteadily(_ count: Int, every pause: Duration) async throws -> Int {
    let output = try await execute(
      Self.program, "steady", "10.9.0.2", "\(Self.port + 1)", "\(count)",
      "\(Int(pause / .microseconds(1)))", netns: left.name, upTo: 60)
    return Int(output) ?? -1
  }

  public struct Arrived: Sendable, Equatable {
    /// At the receiver, whatever became of them there.
    public var atReceiver: Int
    /// At the port where nobody is.
    public var atNobody: Int
  }

  /// What has come through to the right.
  public func arrived() async throws -> Arrived {
    let text = try await execute("cat", "/proc/net/snmp", netns: right.name)
    let lines = text.split(separator: "\n").filter { $0.hasPrefix("Udp:") }
      .map { $0.split(separator: " ").map(String.init) }
    guard lines.count == 2 else { throw Command.Failure("no counters of UDP: \(text)") }
    let values = Dictionary(zip(lines[0], lines[1]), uniquingKeysWith: { first, _ in first })
    func count(_ name: String) -> Int { values[name].flatMap { Int($0) } ?? 0 }
    // Those whose buffer was full count as errors.
    return Arrived(
      atReceiver: count("InDatagrams") + count("InErrors"), atNobody: count("NoPorts"))
  }

  /// Waits until nothing comes in any more.
  public func settled() async throws -> Arrived {
    var last = try await arrived()
    try await eventually("the backlog to empty") {
      try await Task.sleep(for: .milliseconds(50))
      let now = try await arrived()
      defer { last = now }
      return now == last
    }
    return last
  }

  public func close() async {
    receiver.signal(SIGKILL)
    _ = try? await receiver.wait()
    await left.delete()
    await right.delete()
  }
}
