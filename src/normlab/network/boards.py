"""Boards that people have, and the memory that their data sheets state.

Flash that is not on the microcontroller is the board's (`pico`) or its module's (`esp32-s3`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from normlab.config import BoardName


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Attributes:
        title: Its name.
        chip: Its microcontroller.
        flash: Bytes of flash.
        ram: Bytes of RAM; what is not on the microcontroller, such as PSRAM, does not count.
        source: Where its maker states them.
    """

    title: str
    chip: str
    flash: int
    ram: int
    source: str


KB = 2**10
MB = 2**20

BOARDS: Mapping[BoardName, Board] = {
    "nano-33-ble": Board(
        title="Arduino Nano 33 BLE",
        chip="nRF52840",
        flash=1 * MB,
        ram=256 * KB,
        source="https://docs.arduino.cc/resources/datasheets/ABX00030-datasheet.pdf",
    ),
    "pico": Board(
        title="Raspberry Pi Pico",
        chip="RP2040",
        flash=2 * MB,
        ram=264 * KB,
        source="https://datasheets.raspberrypi.com/pico/pico-datasheet.pdf",
    ),
    "esp32-s3": Board(
        title="ESP32-S3-DevKitC-1-N8",
        chip="ESP32-S3",
        flash=8 * MB,
        ram=512 * KB,
        source="https://www.espressif.com/sites/default/files/documentation/"
        "esp32-s3-wroom-1_wroom-1u_datasheet_en.pdf",
    ),
    "nucleo-l4r5zi": Board(
        title="NUCLEO-L4R5ZI",
        chip="STM32L4R5ZI",
        flash=2 * MB,
        ram=640 * KB,
        source="https://www.st.com/resource/en/datasheet/stm32l4r5vi.pdf",
    ),
    "microbit-v2": Board(
        title="micro:bit v2",
        chip="nRF52833",
        flash=512 * KB,
        ram=128 * KB,
        source="https://tech.microbit.org/hardware/",
    ),
}
