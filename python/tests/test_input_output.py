import datetime
import importlib.util
import json
import struct
import unittest

from djl_python import Input, Output, PairList

HAS_NUMPY = importlib.util.find_spec("numpy") is not None
if HAS_NUMPY:
    import numpy


def request(body, **properties):
    return Input({name.replace("_", "-"): value for name, value in properties.items()}, PairList([None], [body]))


class InputTest(unittest.TestCase):
    def test_empty(self):
        empty = Input({"model_id": "m"})
        self.assertTrue(empty.is_empty())
        self.assertIsNone(empty.get_as_bytes())
        with self.assertRaisesRegex(ValueError, "no content"):
            empty.get_as_json()
        self.assertEqual(empty.get_properties(), {"model_id": "m"})

    def test_properties_whatever_their_case(self):
        one = request(b"", Content_Type="text/plain", x="1")
        self.assertEqual(one.get_property("content-type"), "text/plain")
        self.assertEqual(one.get_property("X"), "1")
        self.assertIsNone(one.get_property("y"))

    def test_content_by_key(self):
        one = Input({}, PairList(["first", "data", "first"], [b"1", b'"two"', b"3"]))
        self.assertEqual(one.get_as_string(), '"two"')
        self.assertEqual(one.get_as_json(), "two")
        self.assertEqual(one.get_as_bytes("first"), b"1")
        with self.assertRaisesRegex(KeyError, "'third'"):
            one.get_as_bytes("third")
        self.assertEqual(Input({}, PairList(["a", "b"], [b"", b"x"])).get_as_bytes(), b"")  # the first, though empty
        self.assertFalse(Input({}, PairList(["a"], [b""])).is_empty())

    def test_data_as_its_type_says(self):
        self.assertEqual(request(b"[1]", content_type="application/json; charset=utf-8").get_data(), [1])
        self.assertEqual(request(b"[1]", content_type="Text/Plain").get_data(), "[1]")
        self.assertEqual(request(b"[1]").get_data(), b"[1]")
        self.assertEqual(request(b"a,b\n1,2\n").get_as_csv(), [{"a": "1", "b": "2"}])

    def test_batches(self):
        one = request(b"1", k="v")
        self.assertFalse(one.is_batch())
        self.assertEqual((one.get_batch_size(), one.get_batches()), (1, [one]))
        two = Input.of_batch([one, request(b"2", k="w")])
        self.assertTrue(two.is_batch())
        self.assertFalse(two.is_empty())
        self.assertEqual([member.get_as_json() for member in two.get_batches()], [1, 2])
        self.assertEqual([member.get_property("k") for member in two.get_batches()], ["v", "w"])
        self.assertEqual((two.get_batch_size(), two.get_property("batch_size")), (2, "2"))
        self.assertEqual(two.get_content().get_keys(), ["batch_0.data", "batch_1.data"])


class OutputTest(unittest.TestCase):
    def contents(self, output):
        return list(output.content)

    def test_values_by_type(self):
        output = Output().add("ü").add(b"\xff").add(bytearray(b"b")).add({"a": [1]}, key="j").add(5, key=7)
        self.assertEqual([key for key, _ in output.content], [None, None, None, "j", "7"])
        self.assertEqual([value for _, value in output.content][:3], ["ü".encode(), b"\xff", b"b"])
        self.assertEqual(json.loads(output.content.get("j")), {"a": [1]})
        self.assertEqual(output.content.get("7"), b"5")

    def test_batch_keys(self):
        output = Output().add("x", batch_index=0).add_as_json([1], key="k", batch_index=12)
        self.assertEqual(output.content.get_keys(), ["batch_0.data", "batch_12.k"])

    def test_json_of_what_json_does_not_know(self):
        output = Output().add_as_json({"t": datetime.date(2026, 1, 2), "ü": 1})
        self.assertEqual(json.loads(output.content.value_at(0)), {"t": "2026-01-02", "ü": 1})
        self.assertIn("ü".encode(), output.content.value_at(0))
        for bad in (object(), float("nan")):
            with self.assertRaises((TypeError, ValueError)):
                Output().add_as_json(bad)

    def test_error(self):
        output = Output().error("it is broken")
        self.assertEqual(output.code, 424)
        self.assertEqual(json.loads(output.content.value_at(0)), {"code": 424, "message": "prediction failure", "error": "it is broken"})
        self.assertEqual(output.properties["content-type"], "application/json")
        self.assertEqual(Output().error("x", code=400, message="no").code, 400)

    def test_finalize_runs_once(self):
        seen = []
        output = Output().finalize(seen.append, 1)
        output.execute_finalize()
        output.execute_finalize()
        self.assertEqual(seen, [1])


@unittest.skipUnless(HAS_NUMPY, "numpy is not installed")
class NumpyTest(unittest.TestCase):
    # One array, written by hand from the description of the format: int32 [[1, 2, 3]], little-endian data.
    ONE = (
        struct.pack(">i", 1) + b"\0\4NDAR" + struct.pack(">i", 3) + b"\0" + b"\0\7default" + b"\0\5INT32" + struct.pack(">i2q", 2, 1, 3)
        + struct.pack(">i2H", 2, ord("?"), ord("?")) + b"<" + struct.pack(">i", 12) + struct.pack("<3i", 1, 2, 3)
    )  # fmt: skip

    def test_the_bytes_of_an_array(self):
        output = Output().add_as_numpy(numpy.array([[1, 2, 3]], "int32"))
        self.assertEqual(output.content.value_at(0), self.ONE)
        (array,) = request(self.ONE, content_type="tensor/ndlist").get_data()
        self.assertEqual((array.tolist(), array.dtype, array.shape), ([[1, 2, 3]], "int32", (1, 3)))

    def test_there_and_back(self):
        arrays = [numpy.float32(2.5), numpy.zeros((0, 3), "float64"), numpy.arange(6, dtype=">i8").reshape(2, 3).T, numpy.array([True, False]), numpy.float16([1])]
        for back in (
            request(Output().add_as_numpy(arrays).content.value_at(0)).get_as_numpy(),
            request(Output().add_as_npz(arrays).content.value_at(0)).get_as_npz(),
            request(Output().add_as_npz(arrays).content.value_at(0)).get_as_numpy(),
        ):
            self.assertEqual(len(back), len(arrays))
            for before, after in zip(map(numpy.asarray, arrays), back):
                self.assertEqual((before.shape, before.dtype.kind, before.dtype.itemsize), (after.shape, after.dtype.kind, after.dtype.itemsize))
                numpy.testing.assert_array_equal(before, after)

    def test_a_list_cut_short(self):
        for size in (0, 3, 5, 9, 20, 40, len(self.ONE) - 1):
            with self.assertRaises((ValueError, struct.error)):
                request(self.ONE[:size]).get_as_numpy()

    def test_numbers_in_json(self):
        output = Output().add({"a": numpy.int64(1), "b": numpy.float32(0.5), "c": numpy.arange(2)})
        self.assertEqual(json.loads(output.content.value_at(0)), {"a": 1, "b": 0.5, "c": [0, 1]})


if __name__ == "__main__":
    unittest.main()
