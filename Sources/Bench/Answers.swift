import Foundation
import TestSupport

/// Answers of one segment on a connection that stays open, over 10 ms: what is lost
/// of them is sent again by time-out.
func measureAnswers() async throws -> [Row] {
  var rows: [Row] = []
  for loss in [2, 8] {
    rows += try await measureAnswers(loss: loss)
  }
  return rows
}

private let port = 7000
private let rounds = 4
private let questions = 200

private func measureAnswers(loss: Int) async throws -> [Row] {
  let path = try await Path(delay: 5, options: ["--loss-percent", "\(loss)"])
  let server = try await TCPLoad.answerer(in: path.left, port: port, bytes: 1000)
  var with: [Double] = []
  var without: [Double] = []
  var inVain = 0
  var again = 0
  for _ in 0..<rounds {
    without.append(try await ask(path))
    let daemon = try await Daemon("--allow", "tcp-conn", "--rollback")
    // What it learns from, at both ends.
    for _ in 0..<5 where daemon.lines.count(where: { $0.contains(": 50 ms") }) < 2 {
      _ = try await ask(path)
    }
    with.append(try await ask(path))
    for known in try await ConnectionPath.all(from: path.left) {
      inVain += known.soonerTimeouts.inVain
      again += known.soonerTimeouts.sentAgain
    }
    try await daemon.stop()
  }
  server.signal(SIGTERM)
  await path.close()
  return [
    Row(
      what: "answers over 10 ms, \(loss) % lost: mean time to one, with / without",
      ours: mean(with), reference: mean(without), unit: "ms", goal: .atMost(1)),
    Row(
      what: "answers over 10 ms, \(loss) % lost: sent again in vain, of all times",
      ours: Double(inVain) / Double(max(again, 1)), goal: .none),
  ]
}

private func ask(_ path: Path) async throws -> Double {
  try await TCPLoad.ask(
    from: path.right, to: Path.leftAddress.v4, port: port, count: questions, bytes: 1000)
}
