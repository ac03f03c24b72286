def answer(inputs):
    return None
