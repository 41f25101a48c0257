import Foundation

/// iperf3 from the left to the right end of a path.
public enum Iperf {
  public struct Result: Sendable {
    /// Mbit/s that arrived, of the whole run.
    public let rate: Double
    /// Mbit/s in each interval of 0.1 s, as it was sent.
    public let intervals: [Double]
    /// Bytes received.
    public let bytes: Double
    /// Microseconds: mean of the sender's smoothed round-trip times.
    public let meanRTT: Double
    /// The sender's congestion control at the end.
    public let algorithm: String

    /// Mbit/s from that second on.
    public func rate(from seconds: Double) -> Double {
      let tail = intervals.dropFirst(Int(seconds * 10))
      return tail.isEmpty ? 0 : tail.reduce(0, +) / Double(tail.count)
    }
  }

  /// A server in the namespace, until it is let go.
  public static func server(in namespace: TestNamespace, port: Int = 5201) async throws -> Command {
    let server = try Command(
      ["iperf3", "-s", "--forceflush", "-p", "\(port)"], netns: namespace.name)
    try await server.line(containing: "Server listening")
    return server
  }

  /// One connection to the server for some seconds.
  public static func run(
    from namespace: TestNamespace, to address: String, seconds: Double, port: Int = 5201,
    options: [String] = []
  ) async throws -> Result {
    let client = try Command(
      ["iperf3", "-c", address, "-p", "\(port)", "-t", "\(seconds)", "-i", "0.1", "-J"] + options,
      netns: namespace.name)
    let status = try await client.wait(upTo: seconds + 20)
    let json = try JSONSerialization.jsonObject(with: Data(client.output.utf8)) as? [String: Any]
    guard status == 0, let end = json?["end"] as? [String: Any],
      let received = end["sum_received"] as? [String: Any],
      let rate = received["bits_per_second"] as? Double, let bytes = received["bytes"] as? Double
    else { throw Command.Failure("iperf3: exit \(status): \(client.output.prefix(2000))") }
    let intervals = (json?["intervals"] as? [[String: Any]] ?? []).compactMap {
      ($0["sum"] as? [String: Any])?["bits_per_second"] as? Double
    }
    let stream = (end["streams"] as? [[String: Any]])?.first?["sender"] as? [String: Any]
    return Result(
      rate: rate / 1e6, intervals: intervals.map { $0 / 1e6 }, bytes: bytes,
      meanRTT: stream?["mean_rtt"] as? Double ?? 0,
      algorithm: end["sender_tcp_congestion"] as? String ?? "")
  }
}
