"""The virtual clock compared with hand calculations, and the same devices for all methods."""

from collections import Counter

import pytest

from configs.environment import DeviceClass, DevicesConfig
from fl_server.simulated_devices import DeviceTask, SimulatedDevices, device_model

# 1 Mbit/s up, 8 down, two steps per second: 1 MB up takes 8 s, 1 MB down 1 s; a message is its tensors and 1,000 bytes.
PLAIN = DeviceClass(name="plain", share=1, steps_per_second=2, up_mbit=1, down_mbit=8)


def world(seed: int = 0, plain: DeviceClass = PLAIN, **settings: object) -> SimulatedDevices:
    return SimulatedDevices(DevicesConfig(classes=[plain], **settings), seed)  # type: ignore[arg-type]


def tasks(*steps: int) -> list[DeviceTask]:
    return [DeviceTask(user, 999_000, 499_000, count) for user, count in enumerate(steps)]


def test_a_task_takes_download_training_and_upload() -> None:
    # 1 s down, 6/2 = 3 s of training, 4 s up.
    closed = world().close(1, tasks(6), 1)
    assert closed.arrived_at_s == {0: 8.0}
    assert closed.seconds == 8.0


def test_the_first_replies_close_a_round() -> None:
    closed = world(over_selection=0.5).close(1, tasks(20, 4, 12), 2)
    assert closed.arrived_at_s == {1: 7.0, 2: 11.0}
    assert closed.lost == {0: "late"}
    assert closed.seconds == 11.0
    assert world(over_selection=0.5).cohort_size(5) == 8


def test_the_deadline_closes_a_round() -> None:
    closed = world(deadline_s=10).close(1, tasks(20, 4, 12), 3)
    assert closed.arrived_at_s == {1: 7.0}
    assert closed.lost == {0: "late", 2: "late"}
    assert closed.seconds == 10
    # An opening waits for all clients.
    assert world(deadline_s=10).close(0, tasks(20, 4), 2).lost == {}
    assert world(least_share=0.5).quorum(5) == 3


def test_a_round_with_nobody_there_takes_its_deadline() -> None:
    assert world(deadline_s=10).close(1, [], 3).seconds == 10
    assert world().close(1, [], 3).seconds == 0
    # Everybody who was asked has replied: nothing is left to wait for.
    assert world(deadline_s=10).close(1, tasks(4), 3).seconds == 7


def test_devices_are_drawn_by_share_and_do_not_change() -> None:
    classes = [PLAIN, DeviceClass(name="other", share=3, steps_per_second=1, up_mbit=1, down_mbit=1)]
    devices = SimulatedDevices(DevicesConfig(classes=classes), 0)
    drawn = Counter(devices.device(user).name for user in range(2000))
    # Three in four; the standard error is 19.
    assert abs(drawn["other"] - 1500) < 80
    again = SimulatedDevices(DevicesConfig(classes=classes), 0)
    assert [again.device(user) for user in range(50)] == [devices.device(user) for user in range(50)]
    assert [SimulatedDevices(DevicesConfig(classes=classes), 1).device(user).name for user in range(50)] != [
        devices.device(user).name for user in range(50)
    ]


def test_available_and_lost_devices_follow_their_probabilities() -> None:
    devices = world(plain=PLAIN.model_copy(update={"available": 0.7, "dropout": 0.2}))
    available = [len(devices.available(number, range(100))) for number in range(1, 41)]
    assert len(set(available)) > 1
    assert sum(available) / 4000 == pytest.approx(0.7, abs=0.03)
    lost = sum(len(devices.close(number, tasks(*[1] * 100), 100).lost) for number in range(1, 41))
    assert lost / 4000 == pytest.approx(0.2, abs=0.03)
    assert devices.close(0, tasks(*[1] * 100), 100).lost == {}


def test_a_faster_method_has_the_same_devices() -> None:
    devices = world(plain=PLAIN.model_copy(update={"dropout": 0.3}))
    slow, fast = (devices.close(4, tasks(*[steps] * 30), 30).lost for steps in (100, 1))
    assert slow == fast


def test_without_simulated_devices_all_clients_are_available_and_all_replies_count() -> None:
    devices = device_model(DevicesConfig(), 0)
    assert list(devices.available(1, [4, 7])) == [4, 7]
    assert (devices.cohort_size(5), devices.quorum(5), devices.device(4)) == (5, 1, None)
    outcome = devices.close(1, tasks(20, 4), 2)
    assert (outcome.seconds, outcome.arrived_at_s, outcome.lost) == (None, {}, {})
